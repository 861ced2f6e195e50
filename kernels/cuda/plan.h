/* What the kernels of a call on a GPU are: which to launch, over what grids, in which memory. Plain C that computes and
   touches no device, so that it is tested where there is none; driver.c runs a plan. */
#ifndef MLA_PLAN_H
#define MLA_PLAN_H

#include <stddef.h>
#include "mla_params.h"
#include "mla_rows.h"

typedef struct {
  int capability; /* 80 for sm_80, 90 for sm_90 */
  int multiprocessors;
} MlaDevice;

/* The first argument of every kernel, and the only one of most. The memory of `partial_*` is in the workspace; a kernel
   that has no use for it leaves it alone. */
typedef struct {
  MlaParams params;
  int splits;         /* of the keys, or whatever the kernel's file says */
  void *partial_out;  /* the kernel's file says of what shape */
  float *partial_lse;
} MlaArguments;

enum { MLA_MAP_DIMS = 5, MLA_MOST_MAPS = 8 };

/* What the copy engine of sm_90 (TMA) knows of a tensor: driver.c makes a CUtensorMap of it. What a box has beyond the
   tensor is read as 0 and not written. */
typedef struct {
  void *start;                           /* of element 0, aligned to 16 bytes */
  MlaType type;                          /* of the elements */
  int rank;                              /* 1 to MLA_MAP_DIMS */
  uint64_t dims[MLA_MAP_DIMS];           /* elements, the contiguous dim first; none is 0 */
  uint64_t stride_bytes[MLA_MAP_DIMS];   /* from one index of a dim to the next, multiples of 16; [0] is not read */
  uint32_t box[MLA_MAP_DIMS];            /* elements of one copy, each up to 256 */
  int swizzle_bytes;                     /* 0, 32, 64 or 128: box[0] is no wider than that, unless it is 0 */
} MlaMap;

typedef struct {
  const char *module;   /* the stem of the .cu file with its folder, as in "sm80/mla_attention" */
  const char *function; /* the name of an extern "C" __global__ function in it */
  unsigned grid[3], threads, shared_bytes; /* shared_bytes: dynamic shared memory */
  int is_early; /* may begin while the launch before it runs: the kernel itself waits where it needs what that writes */
  union { /* the first parameter: the arguments, or a row kernel's */
    MlaArguments arguments;
    MlaRowArguments row;
  };
  /* the kernel's parameters after the arguments: const __grid_constant__ CUtensorMap, in this order */
  int map_count;
  MlaMap maps[MLA_MOST_MAPS];
} MlaLaunch;

enum { MLA_MOST_LAUNCHES = 12 };

/* What the launches read and only the host knows: copied into the workspace before them. Up to 64 KB the driver keeps a copy on
   its way, and no one waits. */
typedef struct {
  const void *from;
  void *to;
  size_t bytes; /* 0: there is none */
} MlaTable;

/* Launched in order, in one stream. */
typedef struct {
  MlaTable table;
  int count;
  MlaLaunch launches[MLA_MOST_LAUNCHES];
  size_t workspace_bytes;
} MlaPlan;

/* Plans a call. `workspace` is device memory of plan->workspace_bytes, 256-byte aligned; where the bytes are not known
   yet, plan first with NULL. Returns 0 if no kernel serves the call. */
int mla_plan(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan);

/* The same for a row kernel. All of them serve every call that has rows. */
void mla_plan_rows(const MlaRowCall *call, void *workspace, MlaPlan *plan);

/* For the families' own files: the next `bytes` of the workspace, aligned to 256. */
void *mla_take(MlaPlan *plan, void *workspace, size_t bytes);

/* For the families' own files: adds a launch with `arguments` and returns it. */
MlaLaunch *mla_launch(MlaPlan *plan, const char *module, const char *function, const MlaArguments *arguments);

#endif
