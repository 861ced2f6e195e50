/* Merges the splits of a forward: out = Σ exp(lse_s − lse) · out_s and lse = ln Σ exp(lse_s), as gradients/README.md
   says of mergeStates.
   partial_out [batch][splits][rows][dv] in the type of out and partial_lse [batch][splits][rows], of packed rows (position ·
   hq + head); sums of splits that saw nothing are not used. A block has a row, and its groups of threads take turns at the
   splits: a thread has eight columns. The groups' sums are added in their order.
   grid: (rows, batch). */
#pragma once

#include "../plan.h"
#include "decode_tiles.h"
#include "softmax.cuh"

constexpr int COLUMNS = MLA_DECODE_DN;
constexpr int BATCH = MLA_MERGE_BATCH; /* splits of a group under way */

/* Eight neighbours as they lie in memory. */
template <typename E>
struct Eight {
  uint4 bits[sizeof(E) / 2];

  __device__ void load(const E *from) {
#pragma unroll
    for (int i = 0; i < (int)sizeof(E) / 2; i++) bits[i] = reinterpret_cast<const uint4 *>(from)[i];
  }
  __device__ float operator[](int i) const { return static_cast<float>(reinterpret_cast<const E *>(bits)[i]); }
};

/* Leaves the splits' shares of the result in `shares`, by one warp, and returns the lse of all. */
__device__ inline float find_shares(const float *partial_lse, int64_t stride, int splits, float *shares) {
  const int lane = threadIdx.x % 32;
  float lse[MLA_MERGE_MOST_SPLITS / 32], most = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < MLA_MERGE_MOST_SPLITS / 32; i++) {
    const int split = i * 32 + lane;
    lse[i] = split < splits ? partial_lse[split * stride] : -INFINITY;
    most = fmaxf(most, lse[i]);
  }
  most = max_of_lanes<32>(most);
  if (most == -INFINITY) most = 0;
#pragma unroll
  for (int i = 0; i < MLA_MERGE_MOST_SPLITS / 32; i++) total += lse[i] = exp2_fast((lse[i] - most) * LOG2_E);
  total = sum_of_lanes<32>(total);
#pragma unroll
  for (int i = 0; i < MLA_MERGE_MOST_SPLITS / 32; i++) shares[i * 32 + lane] = total == 0 ? 0 : lse[i] / total;
  return total == 0 ? -INFINITY : most + logf(total);
}

/* wait() returns once there are the splits. */
template <typename E, typename Wait>
__device__ inline void merge(const MlaArguments &a, Wait wait) {
  __shared__ __align__(16) float sums[MLA_MERGE_MOST_GROUPS][COLUMNS], shares[MLA_MERGE_MOST_SPLITS];
  const MlaParams &p = a.params;
  const int row = blockIdx.x, rows = gridDim.x, batch = blockIdx.y, position = row / p.hq, head = row % p.hq;
  const int groups = blockDim.x / MLA_MERGE_GROUP, group = threadIdx.x / MLA_MERGE_GROUP;
  const int column = threadIdx.x % MLA_MERGE_GROUP * 8;
  const int64_t first = (int64_t)batch * a.splits * rows + row, stride = rows; /* rows of the partial results */
  const E *partial_out = static_cast<const E *>(a.partial_out) + first * COLUMNS + column;

  Eight<E> parts[BATCH]; /* under way while the shares are found */
  auto load = [&](int split) {
#pragma unroll
    for (int i = 0; i < BATCH; i++)
      if (split + i * groups < a.splits) parts[i].load(partial_out + (split + i * groups) * stride * COLUMNS);
  };
  wait();
  load(group);
  if (threadIdx.x < 32) {
    const float lse = find_shares(a.partial_lse + first, stride, a.splits, shares);
    if (threadIdx.x == 0) p.lse[((int64_t)batch * p.hq + head) * p.sq + position] = lse;
  }
  __syncthreads();

  float sum[8] = {};
#pragma unroll 1
  for (int split = group; split < a.splits; split += BATCH * groups) {
    if (split != group) load(split);
#pragma unroll
    for (int n = 0; n < BATCH; n++) {
      const float share = split + n * groups < a.splits ? shares[split + n * groups] : 0;
      if (share == 0) continue;
#pragma unroll
      for (int i = 0; i < 8; i++) sum[i] += share * parts[n][i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i += 4)
    *reinterpret_cast<float4 *>(&sums[group][column + i]) = make_float4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
  __syncthreads();

  E *out = static_cast<E *>(p.out.start) + batch * p.out.batch + position * p.out.position + head * p.out.head;
  for (int i = threadIdx.x; i < COLUMNS; i += blockDim.x) {
    float all = 0;
    for (int n = 0; n < groups; n++) all += sums[n][i];
    out[i] = static_cast<E>(all);
  }
}
