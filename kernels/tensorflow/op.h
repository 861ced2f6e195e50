/* What the files of the ops share: an op's definition, what its attributes say, and what runs it. */
#ifndef MLA_OP_H
#define MLA_OP_H

#include "../cuda/mla_params.h"
#include "tensorflow.h"

enum { MOST_INPUTS = 10, MOST_OUTPUTS = 4, RANK = 4 };

typedef struct {
  const char *name;
  MlaKernel kernel;
  int is_decode;
  const char *inputs[MOST_INPUTS + 1];
  const char *outputs[MOST_OUTPUTS + 1];
} Op;

/* The axes of batch, position and head. */
typedef struct {
  const char *name;
  int batch, position, head;
} Layout;

/* What the attributes of an op say: nothing that changes from step to step is among them. */
typedef struct {
  const Op *op;
  const Layout *layout;
  MlaPrecision precision;
  float softmax_scale;
  int is_causal, is_top_left;
  int64_t window_left, window_right;
} Attributes;

/* call.c: one call of any op but MLACacheAppend; `attributes` are those that op.c made for the kernel. */
void compute_on_cpu(void *attributes, TF_OpKernelContext *context);
void compute_on_gpu(void *attributes, TF_OpKernelContext *context);

/* op.c: what registers an op and its kernels, which return NULL, or in a sentence why not. `on_cpu` may be NULL. `host_input`,
   if any, stays in the host's memory where the op runs on a GPU. */
typedef void *Create(TF_OpKernelConstruction *);
typedef void ShapeFunction(TF_ShapeInferenceContext *, TF_Status *);
typedef void Compute(void *, TF_OpKernelContext *);
const char *register_definition(TF_OpDefinitionBuilder *builder, ShapeFunction *shape);
const char *register_kernels(const char *op, Create *create, Compute *on_cpu, Compute *on_gpu, const char *host_input);

/* Attributes of an op whose inputs are lists: N, how many tensors each has. */
typedef struct {
  int64_t tensors;
} ListAttributes;
Create create_of_list;

/* Shapes of the outputs: unknown, or those of these inputs. */
ShapeFunction shape_unknown, shape_like_first, shape_like_second_and_third;

/* row_ops.c: all of them; adam.c: MLAAdam; linear.c: MLALinear and MLALinearBackward. */
const char *register_row_ops(void);
const char *register_adam(void);
const char *register_linear(void);

/* cache_append.c: MLACacheAppend, which has no attributes but its type. */
void append_on_cpu(void *nothing, TF_OpKernelContext *context);
void append_on_gpu(void *nothing, TF_OpKernelContext *context);

#endif
