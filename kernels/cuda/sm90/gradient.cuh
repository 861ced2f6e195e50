/* Step B3 of gradients/README.md on scores as products leave them (wgmma.cuh), and F3 by way of lse. */
#pragma once

#include "softmax.cuh"
#include "wgmma.cuh"

__device__ inline float2 unpack(unsigned pair, __half) { return __half22float2(reinterpret_cast<__half2 &>(pair)); }
__device__ inline float2 unpack(unsigned pair, __nv_bfloat16) {
  return float2{__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)};
}

/* lse in the unit of exp2, such that rows that see nothing get weights of 0. */
__device__ inline float weight_reference(float lse) { return lse == -INFINITY ? INFINITY : lse * LOG2_E; }

__device__ inline float weight(float score, float scale, float reference) {
  return exp2_fast(fmaf(score, scale, -reference));
}
