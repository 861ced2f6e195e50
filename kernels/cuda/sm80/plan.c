#include "plan_parts.h"

/* What the greatest score of an attention is found for: a scale of 0 or below would want another one. */
static int has_positive_scale(const MlaParams *p) { return p->softmax_scale > 0; }

/* Where TF32, and three products of halves, are faster than one of floats: GPUs with as much shared memory as an A100. Those
   with less multiply one as fast as the other. */
static int has_fast_floats(const MlaDevice *device) { return mla_shared_bytes(device) >= 163 * 1024; }

static int is_empty(const MlaParams *p) { return p->batch == 0 || p->hq == 0 || p->sq == 0 || p->skv == 0; }

int mla_plan_sm80(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan) {
  if (device->capability < 80) return 0;
  if (kernel == MLA_DELTA) return mla_plan_sm80_backward(device, kernel, params, workspace, plan);
  if (is_empty(params)) return 0;
  if (params->is_decode) return mla_plan_sm80_decode(device, kernel, params, workspace, plan);
  if (!has_positive_scale(params)) return 0;
  if (mla_multiplied_type(params) == MLA_FLOAT32 && !has_fast_floats(device)) return 0;
  if (kernel == MLA_FORWARD) return mla_plan_sm80_attention(device, kernel, params, workspace, plan);
  return mla_plan_sm80_backward(device, kernel, params, workspace, plan);
}
