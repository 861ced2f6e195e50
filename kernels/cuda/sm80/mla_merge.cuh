/* Merges the splits of a forward: out = Σ exp(lse_s − lse) · out_s and lse = ln Σ exp(lse_s), as gradients/README.md
   says of mergeStates.
   partial_out [batch][splits][rows][dv] in the type of out and partial_lse [batch][splits][rows], of packed rows (position ·
   hq + head). A warp has a row, of which each lane has eight columns; groups of its lanes share the splits. What takes time
   is to wait for memory, so there are as many groups as it takes for most lanes to load all their splits at once.
   grid: (rows / MLA_MERGE_WARPS, parts of the columns, batch). */
#pragma once

#include "../plan.h"
#include "decode_tiles.h"
#include "softmax.cuh"

/* Eight neighbours as they lie in memory. */
template <typename E>
struct Eight {
  uint4 bits[sizeof(E) / 2];

  __device__ float operator[](int i) const { return static_cast<float>(reinterpret_cast<const E *>(bits)[i]); }
};

/* wait() returns once there are the splits. IS_ALL_WRITTEN: also what saw nothing, as zeros. */
template <typename E, bool IS_ALL_WRITTEN, typename Wait>
__device__ inline void merge(const MlaArguments &a, Wait wait) {
  constexpr int COLUMNS = MLA_DECODE_DN, BATCH = MLA_MERGE_BATCH;
  const MlaParams &p = a.params;
  const int groups = gridDim.y / (COLUMNS / (8 * 32)), lanes = 32 / groups; /* of a group */
  const int lane = threadIdx.x % 32, group = lane / lanes, column = (blockIdx.y * lanes + lane % lanes) * 8;
  const int row = blockIdx.x * MLA_MERGE_WARPS + threadIdx.x / 32, rows = p.sq * p.hq, batch = blockIdx.z;
  const int position = row / p.hq, head = row % p.hq;
  const int64_t first = (int64_t)batch * a.splits * rows + row;
  const E *partial_out = static_cast<const E *>(a.partial_out) + column;
  if (row >= rows) return;
  wait();

  /* the largest lse of all groups so far, and this group's sums of weights and of columns, relative to it */
  float largest = -INFINITY, total = 0, sums[8] = {};
#pragma unroll 1
  for (int start = 0; start < a.splits; start += BATCH * groups) {
    float lse[BATCH];
    Eight<E> parts[BATCH];
#pragma unroll
    for (int n = 0; n < BATCH; n++) {
      const int split = start + n * groups + group;
      const int64_t partial = first + (int64_t)split * rows;
      lse[n] = -INFINITY, parts[n] = {};
      if (split < a.splits) {
        lse[n] = a.partial_lse[partial];
        parts[n] = *reinterpret_cast<const Eight<E> *>(partial_out + partial * COLUMNS);
      }
    }
    const float before = largest;
#pragma unroll
    for (int n = 0; n < BATCH; n++) largest = fmaxf(largest, lse[n]);
    for (int step = lanes; step < 32; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, step));
    const float reference = largest == -INFINITY ? 0 : largest;
    const float factor = exp2_fast((before - reference) * LOG2_E);
    total *= factor;
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] *= factor;
#pragma unroll
    for (int n = 0; n < BATCH; n++) {
      const float weight = exp2_fast((lse[n] - reference) * LOG2_E);
      if (!IS_ALL_WRITTEN && weight == 0) continue;
      total += weight;
#pragma unroll
      for (int i = 0; i < 8; i++) sums[i] += weight * parts[n][i];
    }
  }
  for (int step = lanes; step < 32; step *= 2) {
    total += __shfl_xor_sync(~0u, total, step);
#pragma unroll
    for (int i = 0; i < 8; i++) sums[i] += __shfl_xor_sync(~0u, sums[i], step);
  }
  if (group > 0) return;
  if (column == 0)
    p.lse[((int64_t)batch * p.hq + head) * p.sq + position] = total > 0 ? largest + logf(total) : -INFINITY;
  E *out = static_cast<E *>(p.out.start) + batch * p.out.batch + position * p.out.position + head * p.out.head + column;
  const float share = total > 0 ? 1 / total : 0;
  alignas(16) E result[8];
#pragma unroll
  for (int i = 0; i < 8; i++) result[i] = static_cast<E>(sums[i] * share);
  *reinterpret_cast<Eight<E> *>(out) = *reinterpret_cast<const Eight<E> *>(result);
}

/* Up to 128 registers a thread: with fewer the compiler puts off loads until others are done. */
#define MLA_MERGE_BOUNDS __launch_bounds__(MLA_MERGE_WARPS * 32, 4)
