/* MLADelta, B1 of gradients/README.md: delta = dOut · out - dLse. A row is read by `splits` lanes of a warp, 16 bytes at a
   time; they are the least power of two that takes it at once, at most 32.
   grid: (the rows [batch, hq, sq] by whole warps). */
#include "../plan.h"
#include "tile.cuh"

/* The products of 16 bytes of a row. */
__device__ inline float sum_of_products(uint4 left, uint4 right, float) {
  return __uint_as_float(left.x) * __uint_as_float(right.x) + __uint_as_float(left.y) * __uint_as_float(right.y) +
         __uint_as_float(left.z) * __uint_as_float(right.z) + __uint_as_float(left.w) * __uint_as_float(right.w);
}
template <typename T>
__device__ inline float sum_of_products(uint4 left, uint4 right, T type) {
  const unsigned a[] = {left.x, left.y, left.z, left.w}, b[] = {right.x, right.y, right.z, right.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float2 x = unpack(a[i], type), y = unpack(b[i], type);
    sum += x.x * y.x + x.y * y.y;
  }
  return sum;
}

template <typename T>
__device__ inline void delta(const MlaArguments &a) {
  const MlaParams &p = a.params;
  const int lanes = a.splits, chunks = p.dv * sizeof(T) / 16;
  const int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / lanes;
  const int lane = threadIdx.x % lanes;
  const bool is_there = row < (int64_t)p.batch * p.hq * p.sq;
  float sum = 0;
  if (is_there) {
    const int query = row % p.sq, head = row / p.sq % p.hq, batch = row / p.sq / p.hq;
    const uint4 *out = static_cast<const uint4 *>(row_of(p.out, p.type, batch, query, head));
    const uint4 *d_out = static_cast<const uint4 *>(row_of(p.d_out, p.type, batch, query, head));
    for (int chunk = lane; chunk < chunks; chunk += lanes)
      sum += sum_of_products(__ldg(out + chunk), __ldg(d_out + chunk), T());
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(~0u, sum, distance);
  if (is_there && lane == 0) p.delta[row] = sum - (p.d_lse ? p.d_lse[row] : 0);
}

extern "C" __global__ void mla_delta_f32(const __grid_constant__ MlaArguments a) { delta<float>(a); }
extern "C" __global__ void mla_delta_f16(const __grid_constant__ MlaArguments a) { delta<__half>(a); }
extern "C" __global__ void mla_delta_bf16(const __grid_constant__ MlaArguments a) { delta<__nv_bfloat16>(a); }
