/* MLADelta, B1 of gradients/README.md: delta = dOut · out - dLse. A row is read by `splits` lanes of a warp, 16 bytes at a
   time; they are the least power of two that takes it at once, at most 32.
   grid: (the rows [batch, hq, sq] by whole warps). */
#include "../plan.h"
#include "tile.cuh"

__device__ inline float2 to_floats(__half2 pair) { return __half22float2(pair); }
__device__ inline float2 to_floats(__nv_bfloat162 pair) { return __bfloat1622float2(pair); }
__device__ inline float2 to_floats(float2 pair) { return pair; }

/* PAIR is two numbers as they lie in memory. */
template <typename PAIR>
__device__ inline float product_of_chunks(const void *left, const void *right) {
  constexpr int PAIRS = 16 / sizeof(PAIR);
  const uint4 left_bits = __ldg(static_cast<const uint4 *>(left)), right_bits = __ldg(static_cast<const uint4 *>(right));
  float sum = 0;
#pragma unroll
  for (int i = 0; i < PAIRS; i++) {
    const float2 a = to_floats(reinterpret_cast<const PAIR *>(&left_bits)[i]);
    const float2 b = to_floats(reinterpret_cast<const PAIR *>(&right_bits)[i]);
    sum += a.x * b.x + a.y * b.y;
  }
  return sum;
}

template <typename PAIR>
__device__ inline void delta(const MlaArguments &a) {
  const MlaParams &p = a.params;
  const int lanes = a.splits, chunk_numbers = 32 / sizeof(PAIR);
  const int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / lanes;
  const int lane = threadIdx.x % lanes;
  const bool is_there = row < (int64_t)p.batch * p.hq * p.sq;
  float sum = 0;
  if (is_there) {
    const int query = row % p.sq, head = row / p.sq % p.hq, batch = row / p.sq / p.hq;
    const char *out = static_cast<const char *>(row_of(p.out, p.type, batch, query, head));
    const char *d_out = static_cast<const char *>(row_of(p.d_out, p.type, batch, query, head));
    for (int chunk = lane; chunk < p.dv / chunk_numbers; chunk += lanes)
      sum += product_of_chunks<PAIR>(out + chunk * 16, d_out + chunk * 16);
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  if (is_there && lane == 0) p.delta[row] = sum - (p.d_lse ? p.d_lse[row] : 0);
}

extern "C" __global__ void mla_delta_f32(const __grid_constant__ MlaArguments a) { delta<float2>(a); }
extern "C" __global__ void mla_delta_f16(const __grid_constant__ MlaArguments a) { delta<__half2>(a); }
extern "C" __global__ void mla_delta_bf16(const __grid_constant__ MlaArguments a) { delta<__nv_bfloat162>(a); }
