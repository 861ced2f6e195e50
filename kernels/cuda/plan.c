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

/* The first family that serves the call. */
int mla_plan(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan) {
  static MlaFamily *const families[] = {mla_plan_sm90, mla_plan_sm80, mla_plan_general};
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    plan->count = 0;
    plan->workspace_bytes = 0;
    plan->table.bytes = 0;
    if (families[i](device, kernel, params, workspace, plan)) return 1;
  }
  return 0;
}
