/* Merges the splits of a forward: out = Σ exp(lse_s − lse) · out_s and lse = ln Σ exp(lse_s), as gradients/README.md
   says of mergeStates.
   partial_out [batch][splits][rows][dv] in the type of out and partial_lse [batch][splits][rows], of packed rows (position ·
   hq + head); sums of splits that saw nothing are not used. A block has MLA_MERGE_COLUMNS columns of a row: a thread eight of
   them, and a warp every WARPS-th split. The warps' sums are added in their order.
   grid: (rows, parts of the columns, batch). */
#include "../plan.h"
#include "decode_tiles.h"
#include "softmax.cuh"

constexpr int BATCH = MLA_MERGE_BATCH; /* splits of a thread under way */
static_assert(MLA_MERGE_COLUMNS == 32 * 8, "a warp has all columns");

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

template <typename E>
__device__ inline void merge(const MlaArguments &a) {
  __shared__ __align__(16) float sums[MLA_MERGE_MOST_WARPS][MLA_MERGE_COLUMNS];
  const MlaParams &p = a.params;
  const int row = blockIdx.x, batch = blockIdx.z, rows = gridDim.x, warps = blockDim.x / 32;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = (int64_t)batch * a.splits * rows + row; /* of the first split */
  const float *partial_lse = a.partial_lse + first;
  const E *partial_out = static_cast<const E *>(a.partial_out) + first * p.dv + blockIdx.y * MLA_MERGE_COLUMNS + lane * 8;

  Eight<E> parts[BATCH]; /* under way while the weights are found */
  auto load = [&](int split) {
#pragma unroll
    for (int i = 0; i < BATCH; i++)
      if (split + i * warps < a.splits) parts[i].load(partial_out + (int64_t)(split + i * warps) * rows * p.dv);
  };
  load(warp);

  /* every warp for itself; a lane has every 32nd split */
  float weights[MLA_MERGE_MOST_SPLITS / 32], most = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < MLA_MERGE_MOST_SPLITS / 32; i++) {
    const int split = i * 32 + lane;
    weights[i] = split < a.splits ? partial_lse[(int64_t)split * rows] : -INFINITY;
    most = fmaxf(most, weights[i]);
  }
  most = max_of_lanes<32>(most);
  const float subtracted = most == -INFINITY ? 0 : most;
#pragma unroll
  for (int i = 0; i < MLA_MERGE_MOST_SPLITS / 32; i++) {
    weights[i] = exp2_fast((weights[i] - subtracted) * LOG2_E);
    total += weights[i];
  }
  total = sum_of_lanes<32>(total);
  auto weight_of = [&](int split) {
    float weight = weights[0];
#pragma unroll
    for (int i = 1; i < MLA_MERGE_MOST_SPLITS / 32; i++)
      if (split / 32 == i) weight = weights[i];
    return __shfl_sync(~0u, weight, split % 32);
  };

  float sum[8] = {};
  for (int split = warp; split < a.splits; split += BATCH * warps) {
    if (split != warp) load(split);
#pragma unroll
    for (int n = 0; n < BATCH; n++) {
      const float weight = split + n * warps < a.splits ? weight_of(split + n * warps) : 0;
      if (weight != 0)
#pragma unroll
        for (int i = 0; i < 8; i++) sum[i] += weight * parts[n][i];
    }
  }
#pragma unroll
  for (int i = 0; i < 8; i += 4)
    *reinterpret_cast<float4 *>(&sums[warp][lane * 8 + i]) = make_float4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
  __syncthreads();

  const int position = row / p.hq, head = row % p.hq;
  const float factor = total == 0 ? 0 : 1 / total;
  E *out = static_cast<E *>(p.out.start) + batch * p.out.batch + position * p.out.position + head * p.out.head +
           blockIdx.y * MLA_MERGE_COLUMNS;
  for (int column = threadIdx.x; column < MLA_MERGE_COLUMNS; column += blockDim.x) {
    float all = 0;
    for (int i = 0; i < warps; i++) all += sums[i][column];
    out[column] = static_cast<E>(all * factor);
  }
  if (blockIdx.y == 0 && threadIdx.x == 0)
    p.lse[((int64_t)batch * p.hq + head) * p.sq + position] = total == 0 ? -INFINITY : most + logf(total);
}

#define KERNEL(NAME, E)                                                                       \
  extern "C" __global__ void __launch_bounds__(MLA_MERGE_MOST_WARPS * 32)                     \
      mla_merge_##NAME(const __grid_constant__ MlaArguments a) {                              \
    merge<E>(a);                                                                              \
  }
KERNEL(f16, __half)
KERNEL(bf16, __nv_bfloat16)
KERNEL(f32, float)
