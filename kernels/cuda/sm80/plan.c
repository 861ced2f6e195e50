#include "plan_parts.h"

int mla_plan_sm80(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan) {
  if (device->capability < 80) return 0;
  if (params->is_decode) return mla_plan_sm80_decode(device, kernel, params, workspace, plan);
  return mla_plan_sm80_attention(device, kernel, params, workspace, plan);
}
