/* The same merge, launched while the splits are still under way: its blocks are ready when these end. */
#include "../sm80/mla_merge.cuh"
#include "barrier.cuh"

#define KERNEL(NAME, E)                                                                                  \
  extern "C" __global__ void MLA_MERGE_BOUNDS mla_merge_##NAME(const __grid_constant__ MlaArguments a) { \
    merge<E, true>(a, wait_for_previous);                                                                \
  }
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
