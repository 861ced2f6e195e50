#include "plan_parts.h"

int mla_plan_sm80(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan) {
  int is_empty = params->batch == 0 || params->hq == 0 || params->sq == 0 || params->skv == 0;
  if (device->capability < 80 || params->is_decode || is_empty) return 0;
  if (kernel == MLA_FORWARD) return mla_plan_sm80_attention(device, kernel, params, workspace, plan);
  return mla_plan_sm80_backward(device, kernel, params, workspace, plan);
}
