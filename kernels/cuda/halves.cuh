/* 16-bit numbers two to a register, as products and stores want them. */
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

/* Two neighbours of a row as the halves of one register, the first in the low half. */
__device__ inline unsigned pack(float first, float second, __half) {
  __half2 pair = __floats2half2_rn(first, second);
  return reinterpret_cast<unsigned &>(pair);
}
__device__ inline unsigned pack(float first, float second, __nv_bfloat16) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return reinterpret_cast<unsigned &>(pair);
}
__device__ inline float2 unpack(unsigned pair, __half) { return __half22float2(reinterpret_cast<__half2 &>(pair)); }
__device__ inline float2 unpack(unsigned pair, __nv_bfloat16) {
  return __bfloat1622float2(reinterpret_cast<__nv_bfloat162 &>(pair));
}

/* The same of inputs: what is too large for a half becomes the largest; NaN stays. */
__device__ inline float clamp_to_half(float x) { return fabsf(x) > 65504 ? copysignf(65504, x) : x; }
__device__ inline unsigned pack_input(float first, float second, __half type) {
  return pack(clamp_to_half(first), clamp_to_half(second), type);
}
__device__ inline unsigned pack_input(float first, float second, __nv_bfloat16 type) { return pack(first, second, type); }
