/* The merge of splits after they have ended. */
#include "mla_merge.cuh"

#define KERNEL(NAME, E)                                                                                  \
  extern "C" __global__ void MLA_MERGE_BOUNDS mla_merge_##NAME(const __grid_constant__ MlaArguments a) { \
    merge<E, false>(a, [] {});                                                                           \
  }
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
KERNEL(f32, float)
