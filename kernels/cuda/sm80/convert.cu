/* float32 tensors as half or bfloat16, to the nearest: params.v, [batch, skv, hkv, dv] with any strides, to params.out.
   grid: any; a thread takes four numbers of a row at a time. */
#include "../plan.h"
#include "mma.cuh"

/* Calls take(four numbers of params.v, where they lie in params.out) for all of the thread's. */
template <typename TAKE>
__device__ inline void for_each_four(const MlaParams &p, TAKE take) {
  const int groups = p.dv / 4;
  const int64_t count = (int64_t)p.batch * p.skv * p.hkv * groups;
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
    const int column = i % groups * 4, head = i / groups % p.hkv;
    const int64_t place = i / groups / p.hkv, position = place % p.skv, batch = place / p.skv;
    const float *from =
        static_cast<const float *>(p.v.start) + batch * p.v.batch + position * p.v.position + head * p.v.head + column;
    take(*reinterpret_cast<const float4 *>(from),
         batch * p.out.batch + position * p.out.position + head * p.out.head + column);
  }
}

template <typename T>
__device__ inline void convert(const MlaParams &p, float factor) {
  for_each_four(p, [&](float4 four, int64_t to) {
    *reinterpret_cast<uint2 *>(static_cast<T *>(p.out.start) + to) =
        make_uint2(pack_input(four.x * factor, four.y * factor, T()), pack_input(four.z * factor, four.w * factor, T()));
  });
}

extern "C" __global__ void convert_f16(const __grid_constant__ MlaArguments a) { convert<__half>(a.params, 1); }
extern "C" __global__ void convert_bf16(const __grid_constant__ MlaArguments a) { convert<__nv_bfloat16>(a.params, 1); }

/* The greatest magnitude of a block's threads, which are whole warps. */
__device__ inline float greatest_of_block(float most) {
  __shared__ unsigned of_warps[32];
  const unsigned of_warp = __reduce_max_sync(~0u, __float_as_uint(most));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = of_warp;
  __syncthreads();
  return __uint_as_float(__reduce_max_sync(~0u, threadIdx.x % 32 < blockDim.x / 32 ? of_warps[threadIdx.x % 32] : 0));
}

/* Gradients may be smaller than any half: they are multiplied by a power of two. First partial_lse[block] = the greatest
   magnitude of the block's numbers; then, with `splits` of them, *partial_out = the power, which brings the greatest to
   [2^14, 2^15), and params.out = params.v times it. */
extern "C" __global__ void convert_greatest(const __grid_constant__ MlaArguments a) {
  float most = 0;
  for_each_four(a.params, [&](float4 four, int64_t) {
    most = fmaxf(most, fmaxf(fmaxf(fabsf(four.x), fabsf(four.y)), fmaxf(fabsf(four.z), fabsf(four.w))));
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
  convert<__half>(a.params, power);
}
