#include "plan.h"

#include <string.h>

#include "families.h"

void *mla_take(MlaPlan *plan, void *workspace, size_t bytes) {
  char *start = workspace ? (char *)workspace + plan->workspace_bytes : NULL;
  plan->workspace_bytes += (bytes + 255) / 256 * 256;
  return start;
}

MlaLaunch *mla_launch(MlaPlan *plan, const char *module, const char *function, const MlaArguments *arguments) {
  MlaLaunch *launch = &plan->launches[plan->count++];
  *launch = (MlaLaunch){.module = module, .function = function, .grid = {1, 1, 1}, .arguments = *arguments};
  return launch;
}

/* Adds the launches of the first family that serves the call. */
static int add(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaFamily *only,
               MlaPlan *plan) {
  static MlaFamily *const families[] = {mla_plan_sm90, mla_plan_sm80, mla_plan_general};
  int count = plan->count;
  size_t workspace_bytes = plan->workspace_bytes;
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    if (only && only != families[i]) continue;
    if (families[i](device, kernel, params, workspace, plan)) return 1;
    plan->count = count;
    plan->workspace_bytes = workspace_bytes;
  }
  return 0;
}

/* Of whatever family the gradients are, delta is of the one that MLADelta takes: it has the same bits. */
static int add_delta(const MlaDevice *device, MlaParams *params, void *workspace, MlaPlan *plan) {
  size_t rows = (size_t)params->batch * (size_t)params->hq * (size_t)params->sq;
  params->delta = mla_take(plan, workspace, rows * sizeof(float));
  return add(device, MLA_DELTA, params, workspace, NULL, plan);
}

int mla_plan_in(MlaFamily *only, const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace,
                MlaPlan *plan) {
  MlaParams p = *params;
  plan->count = 0;
  plan->workspace_bytes = 0;
  plan->table.bytes = 0;
  return (kernel != MLA_BACKWARD || add_delta(device, &p, workspace, plan)) &&
         add(device, kernel, &p, workspace, only, plan);
}

int mla_plan(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan) {
  return mla_plan_in(NULL, device, kernel, params, workspace, plan);
}
