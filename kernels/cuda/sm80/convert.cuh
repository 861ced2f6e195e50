/* The float32 operands of an attention as half or bfloat16, to the nearest, in one launch: params.k, v, k_rope, q, d_out to
   params.d_k, d_v, d_k_rope, d_q, out. Rows are of whole eights; a tensor and its copy have their axes in one order.
   grid: (any, 1, tensors). */
#pragma once

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
    case MLA_CONVERT_K: return {p.k, p.d_k, p.batch, p.skv, p.hkv, p.dn};
    case MLA_CONVERT_V: return {p.v, p.d_v, p.batch, p.skv, p.hkv, p.dv};
    case MLA_CONVERT_K_ROPE: return {p.k_rope, p.d_k_rope, p.batch, p.skv, p.hkv, p.dr};
    case MLA_CONVERT_Q: return {p.q, p.d_q, p.batch, p.sq, p.hq, p.dn + p.dr};
    default: return {p.d_out, p.out, p.batch, p.sq, p.hq, p.dv};
  }
}

struct Eight {
  float4 low, high;
};

/* Calls take(eight numbers, where their copies lie in rows.to) for all of the thread's, MLA_CONVERT_AT_ONCE times
   eight on their way: memory is all that bounds it. What is read once shall not drive the copies out of L2. */
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
      if (column + i * step < rows.columns) {
        const float4 *eight = reinterpret_cast<const float4 *>(from + i * step);
        eights[i] = {__ldcs(eight), __ldcs(eight + 1)};
      }
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
