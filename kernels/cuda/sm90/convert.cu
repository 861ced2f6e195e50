/* The same conversion, during which the kernel that multiplies is launched: its blocks are ready when this ends. It reads
   nothing of delta, which may be launched before it, but ends after it: who comes next reads both. */
#include "../sm80/convert.cuh"
#include "barrier.cuh"

#define KERNEL(NAME, T)                                                                    \
  extern "C" __global__ void convert_##NAME(const __grid_constant__ MlaArguments a) {      \
    start_dependents();                                                                    \
    convert<T>(rows_of(a.params, blockIdx.z), 1);                                          \
    if (threadIdx.x == 0) wait_for_previous();                                             \
  }
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
