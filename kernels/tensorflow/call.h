/* One call of an op, as call.c and describe.c share it. */
#ifndef MLA_CALL_H
#define MLA_CALL_H

#include "op.h"

typedef struct {
  TF_OpKernelContext *context;
  const Attributes *attributes;
  TF_Status *status; /* the first thing that went wrong */
  TF_Tensor *inputs[MOST_INPUTS], *outputs[MOST_OUTPUTS];
  MlaParams params;
} Call;

static inline int is_failed(const Call *call) { return tf.TF_GetCode(call->status) != TF_OK; }

/* describe.c: what the inputs say, in call->params: sizes, and where rows lie. Absent inputs have no elements. What does not fit is
   an error of the op, in the words of src/core/problem.ts. */
void describe(Call *call);

typedef struct {
  int64_t batch, position, head, depth;
} Dims;

void shape_of(const Layout *layout, Dims dims, int64_t *shape);
MlaRows rows_at(MlaRows rows, const TF_Tensor *tensor);
/* The second part of the rows of one tensor. */
MlaRows rows_after(MlaRows rows, int columns, MlaType type);

#endif
