/* The float32 operands of an attention as half or bfloat16, to the nearest, in one launch: params.q, k, v, k_rope, d_out to
   params.d_q, d_k, d_v, d_k_rope, out. Rows are of whole eights; a tensor and its copy have their axes in one order.
   grid: (any, 1, tensors); convert_greatest and convert_scaled_f16: (any), d_out alone. */
#include "../plan.h"
#include "convert.h"
#include "mma.cuh"

struct Rows {
  const float *from;
  void *to;
  int64_t from_batch, from_outer, from_inner, to_batch, to_outer, to_inner;
  int batch, outer, inner;
  int64_t columns;

  __device__ Rows(const MlaRows &a, const MlaRows &b, int batch_, int positions, int heads, int columns_)
      : from(static_cast<const float *>(a.start)), to(b.start), from_batch(a.batch), from_outer(a.position),
        from_inner(a.head), to_batch(b.batch), to_outer(b.position), to_inner(b.head), batch(batch_), outer(positions),
        inner(a.head ? heads : 1 /* shared */), columns(columns_) {
    if (a.head > a.position) { /* heads come before positions */
      outer = inner, inner = positions;
      from_outer = a.head, from_inner = a.position, to_outer = b.head, to_inner = b.position;
    }
    if (merge(inner, from_inner, to_inner) && merge(outer, from_outer, to_outer)) merge(batch, from_batch, to_batch);
  }
  /* Makes one row of `count` rows where they follow one another on both sides. */
  __device__ bool merge(int &count, int64_t of_from, int64_t of_to) {
    if (count > 1 && (of_from != columns || of_to != columns)) return false;
    columns *= count;
    count = 1;
    return true;
  }
};

__device__ inline Rows rows_of(const MlaParams &p, unsigned operand) {
  switch (operand) {
    case MLA_CONVERT_Q: return {p.q, p.d_q, p.batch, p.sq, p.hq, p.dn + p.dr};
    case MLA_CONVERT_K: return {p.k, p.d_k, p.batch, p.skv, p.hkv, p.dn};
    case MLA_CONVERT_V: return {p.v, p.d_v, p.batch, p.skv, p.hkv, p.dv};
    case MLA_CONVERT_K_ROPE: return {p.k_rope, p.d_k_rope, p.batch, p.skv, p.hkv, p.dr};
    default: return {p.d_out, p.out, p.batch, p.sq, p.hq, p.dv};
  }
}

struct Eight {
  float4 low, high;
};

/* Calls take(eight numbers, where their copies lie in rows.to) for all of the thread's, MLA_CONVERT_AT_ONCE times
   eight on their way: memory is all that bounds it. */
template <typename TAKE>
__device__ inline void for_each_eight(const Rows &rows, TAKE take) {
  const int step = 8 * blockDim.x;
  const int64_t parts = (rows.columns + MLA_CONVERT_AT_ONCE * step - 1) / (MLA_CONVERT_AT_ONCE * step);
  const int64_t all = parts * rows.inner * rows.outer * rows.batch;
  for (int64_t part = blockIdx.x; part < all; part += gridDim.x) {
    const int64_t row = part / parts, column = part % parts * (MLA_CONVERT_AT_ONCE * step) + 8 * threadIdx.x;
    const int inner = row % rows.inner, outer = row / rows.inner % rows.outer, batch = row / rows.inner / rows.outer;
    const float *from = rows.from + batch * rows.from_batch + outer * rows.from_outer + inner * rows.from_inner + column;
    const int64_t to = batch * rows.to_batch + outer * rows.to_outer + inner * rows.to_inner + column;
    Eight eights[MLA_CONVERT_AT_ONCE];
#pragma unroll
    for (int i = 0; i < MLA_CONVERT_AT_ONCE; i++)
      if (column + i * step < rows.columns) eights[i] = *reinterpret_cast<const Eight *>(from + i * step);
#pragma unroll
    for (int i = 0; i < MLA_CONVERT_AT_ONCE; i++)
      if (column + i * step < rows.columns) take(eights[i], to + i * step);
  }
}

template <typename T>
__device__ inline unsigned pack_pair(float x, float y, float factor) {
  return pack_input(x * factor, y * factor, T());
}

template <typename T>
__device__ inline void convert(const Rows &rows, float factor) {
  for_each_eight(rows, [&](const Eight &x, int64_t place) {
    *reinterpret_cast<uint4 *>(static_cast<T *>(rows.to) + place) =
        make_uint4(pack_pair<T>(x.low.x, x.low.y, factor), pack_pair<T>(x.low.z, x.low.w, factor),
                   pack_pair<T>(x.high.x, x.high.y, factor), pack_pair<T>(x.high.z, x.high.w, factor));
  });
}

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
