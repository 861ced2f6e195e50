/* Merges the splits of a forward: out = Σ exp(lse_s − lse) · out_s and lse = ln Σ exp(lse_s), as gradients/README.md says of
   mergeStates, in the order of the splits' groups whatever the machine.
   partial_out [batch][splits][rows][dv] in the type of out and partial_lse [batch][splits][rows], of packed rows (position ·
   hq + head); sums of splits that saw nothing are not used. A block has MLA_MERGE_COLUMNS columns of a row: a thread eight of
   them, of every GROUPS-th split. grid: (rows, parts of the columns, batch). */
#include "../plan.h"
#include "decode_tiles.h"
#include "softmax.cuh"

constexpr int THREADS = MLA_MERGE_THREADS;
constexpr int COLUMN_THREADS = MLA_MERGE_COLUMNS / 8;
constexpr int GROUPS = THREADS / COLUMN_THREADS;
constexpr int BATCH = 4; /* splits of a thread under way */

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

__device__ inline float max_of_warp(float x) {
  for (int step = 16; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
__device__ inline float sum_of_warp(float x) {
  for (int step = 16; step; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

template <typename E>
__device__ inline void merge(const MlaArguments &a) {
  __shared__ __align__(16) float sums[GROUPS][MLA_MERGE_COLUMNS];
  const MlaParams &p = a.params;
  const int row = blockIdx.x, batch = blockIdx.z, rows = gridDim.x;
  const int position = row / p.hq, head = row % p.hq;
  const int own = threadIdx.x % COLUMN_THREADS * 8, group = threadIdx.x / COLUMN_THREADS, lane = threadIdx.x % 32;
  const int64_t first = (int64_t)batch * a.splits * rows + row; /* of the first split */
  const float *partial_lse = a.partial_lse + first;
  const E *partial_out = static_cast<const E *>(a.partial_out) + first * p.dv + blockIdx.y * MLA_MERGE_COLUMNS + own;

  Eight<E> parts[BATCH]; /* under way while the weights are found */
  auto load = [&](int split) {
#pragma unroll
    for (int i = 0; i < BATCH; i++)
      if (split + i * GROUPS < a.splits) parts[i].load(partial_out + (int64_t)(split + i * GROUPS) * rows * p.dv);
  };
  load(group);

  /* every warp for itself */
  float most = -INFINITY, total = 0;
  for (int split = lane; split < a.splits; split += 32) most = fmaxf(most, partial_lse[(int64_t)split * rows]);
  most = max_of_warp(most);
  const float subtracted = most == -INFINITY ? 0 : most;
  auto weight_of = [&](int split) { return exp2_fast((partial_lse[(int64_t)split * rows] - subtracted) * LOG2_E); };
  for (int split = lane; split < a.splits; split += 32) total += weight_of(split);
  total = sum_of_warp(total);

  float sum[8] = {};
  for (int split = group; split < a.splits; split += BATCH * GROUPS) {
    if (split != group) load(split);
#pragma unroll
    for (int n = 0; n < BATCH; n++) {
      const float weight = split + n * GROUPS < a.splits ? weight_of(split + n * GROUPS) : 0;
      if (weight > 0)
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += weight * parts[n][i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i += 4)
    *reinterpret_cast<float4 *>(&sums[group][own + i]) = make_float4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
  __syncthreads();

  if (threadIdx.x < MLA_MERGE_COLUMNS) {
    const int column = threadIdx.x;
    float all = 0;
#pragma unroll
    for (int i = 0; i < GROUPS; i++) all += sums[i][column];
    E *out = static_cast<E *>(p.out.start) + batch * p.out.batch + position * p.out.position + head * p.out.head;
    out[blockIdx.y * MLA_MERGE_COLUMNS + column] = static_cast<E>(total > 0 ? all / total : 0);
  }
  if (blockIdx.y == 0 && threadIdx.x == 0)
    p.lse[((int64_t)batch * p.hq + head) * p.sq + position] = total > 0 ? most + logf(total) : -INFINITY;
}

extern "C" __global__ void __launch_bounds__(THREADS) mla_merge_f16(const __grid_constant__ MlaArguments a) {
  merge<__half>(a);
}
extern "C" __global__ void __launch_bounds__(THREADS) mla_merge_bf16(const __grid_constant__ MlaArguments a) {
  merge<__nv_bfloat16>(a);
}
extern "C" __global__ void __launch_bounds__(THREADS) mla_merge_f32(const __grid_constant__ MlaArguments a) {
  merge<float>(a);
}
