/* What the kernels of a call on a GPU are: which to launch, over what grids, in which memory. Plain C that computes and
   touches no device, so that it is tested where there is none; driver.c runs a plan. */
#ifndef MLA_PLAN_H
#define MLA_PLAN_H

#include <stddef.h>
#include "mla_params.h"

typedef struct {
  int capability; /* 80 for sm_80, 90 for sm_90 */
  int multiprocessors;
} MlaDevice;

/* The one argument of every kernel. The memory of `partial_*` is in the workspace; a kernel that has no use for it leaves
   it alone. */
typedef struct {
  MlaParams params;
  int splits;         /* of the keys, or whatever the kernel's file says */
  void *partial_out;  /* the kernel's file says of what shape */
  float *partial_lse;
} MlaArguments;

typedef struct {
  const char *module;   /* the stem of the .cu file with its folder, as in "sm80/mla_attention" */
  const char *function; /* the name of an extern "C" __global__ function in it */
  unsigned grid[3], threads, shared_bytes;
  MlaArguments arguments;
} MlaLaunch;

enum { MLA_MOST_LAUNCHES = 12 };

/* Launched in order, in one stream. */
typedef struct {
  int count;
  MlaLaunch launches[MLA_MOST_LAUNCHES];
  size_t workspace_bytes;
} MlaPlan;

/* Plans a call. `workspace` is device memory of plan->workspace_bytes, 256-byte aligned; where the bytes are not known
   yet, plan first with NULL. Returns 0 if no kernel serves the call. */
int mla_plan(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan);

/* For the families' own files: the next `bytes` of the workspace, aligned to 256. */
void *mla_take(MlaPlan *plan, void *workspace, size_t bytes);

/* For the families' own files: adds a launch with `arguments` and returns it. */
MlaLaunch *mla_launch(MlaPlan *plan, const char *module, const char *function, const MlaArguments *arguments);

#endif
