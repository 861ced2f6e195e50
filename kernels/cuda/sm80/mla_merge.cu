/* The merge of splits after they have ended. */
#include "mla_merge.cuh"

#define KERNEL(NAME, E)                                                                     \
  extern "C" __global__ void __launch_bounds__(MLA_MERGE_MOST_GROUPS * MLA_MERGE_GROUP)     \
      mla_merge_##NAME(const __grid_constant__ MlaArguments a) {                            \
    merge<E>(a, [] {});                                                                     \
  }
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
KERNEL(f32, float)
