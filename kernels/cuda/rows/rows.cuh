/* What the row kernels share: numbers loaded and stored four at once where rows are of whole fours, and sums of a warp. */
#pragma once
#include "../mla_rows.h"

template <int WIDTH>
struct Pack;
template <>
struct Pack<1> {
  float at[1];
};
template <>
struct __align__(16) Pack<4> {
  float at[4];
};

template <int WIDTH>
__device__ inline Pack<WIDTH> load(const float *from) {
  return *reinterpret_cast<const Pack<WIDTH> *>(from);
}
template <int WIDTH>
__device__ inline void store(float *to, const Pack<WIDTH> &pack) {
  *reinterpret_cast<Pack<WIDTH> *>(to) = pack;
}

template <int WIDTH>
__device__ inline Pack<WIDTH> plus(Pack<WIDTH> a, const Pack<WIDTH> &b) {
#pragma unroll
  for (int i = 0; i < WIDTH; i++) a.at[i] += b.at[i];
  return a;
}

/* The same in every lane. */
__device__ inline float max_of_warp(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lanes));
  return x;
}
__device__ inline float sum_of_warp(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(~0u, x, lanes);
  return x;
}

/* In thread 0; once in a kernel. Blocks are of whole warps. */
__device__ inline float sum_of_block(float x) {
  __shared__ float sums[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  x = sum_of_warp(x);
  if (lane == 0) sums[warp] = x;
  __syncthreads();
  return warp ? 0 : sum_of_warp(lane < blockDim.x / 32 ? sums[lane] : 0);
}
