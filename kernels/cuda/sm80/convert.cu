/* The conversion, and that of gradients to halves.
   grid: (any, 1, tensors); convert_greatest and convert_scaled_f16: (any), d_out alone. */
#include "convert.cuh"

extern "C" __global__ void convert_f16(const __grid_constant__ MlaArguments a) {
  convert<__half>(rows_of(a.params, blockIdx.z), 1);
}
extern "C" __global__ void convert_bf16(const __grid_constant__ MlaArguments a) {
  convert<__nv_bfloat16>(rows_of(a.params, blockIdx.z), 1);
}

__device__ inline float greatest_of_four(float4 x) {
  return fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
}

/* The greatest magnitude of a block's threads, which are whole warps. */
__device__ inline float greatest_of_block(float most) {
  __shared__ unsigned of_warps[32];
  const unsigned of_warp = __reduce_max_sync(~0u, __float_as_uint(most));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = of_warp;
  __syncthreads();
  return __uint_as_float(__reduce_max_sync(~0u, threadIdx.x % 32 < blockDim.x / 32 ? of_warps[threadIdx.x % 32] : 0));
}

/* Gradients may be smaller than any half: they are multiplied by a power of two. First partial_lse[block] = the greatest
   magnitude of the block's numbers of d_out; then, with `splits` of them, *partial_out = the power, which brings the greatest
   to [2^14, 2^15), and params.out = d_out times it. */
extern "C" __global__ void convert_greatest(const __grid_constant__ MlaArguments a) {
  float most = 0;
  for_each_eight(rows_of(a.params, MLA_CONVERT_D_OUT), [&](const Eight &x, int64_t) {
    most = fmaxf(most, fmaxf(greatest_of_four(x.low), greatest_of_four(x.high)));
  });
  most = greatest_of_block(most);
  if (threadIdx.x == 0) a.partial_lse[blockIdx.x] = most;
}
extern "C" __global__ void convert_scaled_f16(const __grid_constant__ MlaArguments a) {
  float most = 0;
  for (int i = threadIdx.x; i < a.splits; i += blockDim.x) most = fmaxf(most, a.partial_lse[i]);
  most = greatest_of_block(most);
  const int exponent = __float_as_uint(most) >> 23;
  const float power = most > 0 ? __uint_as_float(min(max(127 + 14 + 127 - exponent, 27), 227) << 23) : 1;
  if (blockIdx.x == 0 && threadIdx.x == 0) *static_cast<float *>(a.partial_out) = power;
  convert<__half>(rows_of(a.params, MLA_CONVERT_D_OUT), power);
}
