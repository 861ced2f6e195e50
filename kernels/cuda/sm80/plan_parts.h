/* What the plans of this folder share. */
#ifndef MLA_SM80_PLAN_PARTS_H
#define MLA_SM80_PLAN_PARTS_H

#include "../families.h"
#include "convert.h"
#include "split.h"

/* The 16-bit type that the tensors are multiplied as, or MLA_FLOAT32 if it is none. */
MlaType mla_multiplied_type(const MlaParams *params);

/* What the tensors are multiplied as, and the bytes of such a number in memory. */
MlaPrecision mla_multiplied_as(const MlaParams *params);
unsigned mla_number_bytes(MlaPrecision as);

/* What a block may have of the shared memory of a multiprocessor. */
unsigned mla_shared_bytes(const MlaDevice *device);

/* Whether every row begins at 16 bytes. */
int mla_is_aligned(const MlaRows *rows, MlaType type);

/* k, v, k_rope, q and d_out of an attention as operands of `type`: as they are, or converted by a module of this name, up to
   the last that is asked for. Returns 0 if they cannot be copied 16 bytes at a time. */
int mla_operands(MlaPlan *plan, void *workspace, MlaParams *params, MlaType type, const char *conversion,
                 MlaConverted last);

/* The same for gradients. Where floats become halves, d_out comes multiplied by a power of two, so that its small numbers
   are halves too; partial_lse is then where the GPU puts the power, else NULL. */
int mla_gradient_operands(MlaPlan *plan, void *workspace, MlaArguments *arguments, MlaType type,
                          const char *conversion);

/* The same of float32 as split halves (split.cu), each head's k with its k_rope. partial_lse is then where the GPU puts what
   undoes their powers of two. */
int mla_split_operands(MlaPlan *plan, void *workspace, MlaArguments *arguments, MlaSplitForm form);

/* Where d_k_rope is shared by several heads: room for each head's part, float32 [batch, hkv, skv, dr], as partial_out, which
   is NULL otherwise; then the launch that sums them. Returns whether there is something to sum. */
int mla_take_rope_parts(MlaPlan *plan, void *workspace, MlaArguments *arguments);
void mla_plan_rope_sum(const MlaArguments *arguments, MlaPlan *plan);

/* How many parts the walk over `tiles` of keys should have where there are `blocks` walks: the whole takes so many rounds of
   the GPU's blocks, each as long as its tiles and what a block costs beside them, and then a merge of all parts. */
typedef struct {
  double block, merge, split; /* in the time of a tile; split: of the merge, for each part */
} MlaSplitCosts;
int mla_splits(const MlaDevice *device, int64_t blocks, int tiles, MlaSplitCosts costs);

/* Adds the merge of a decode's splits, whose partial results are in the workspace, and returns it. */
MlaLaunch *mla_plan_merge(const MlaArguments *arguments, MlaPlan *plan);

MlaFamily mla_plan_sm80_attention, mla_plan_sm80_backward, mla_plan_sm80_decode;

#endif
