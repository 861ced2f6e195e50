/* The float32 operands of an attention as split halves (mma.cuh), head by head: params.q, k with k_rope, v, d_out to
   params.d_q, d_k, d_v, out, whose rows are of all columns of a head. Rows past the lengths become 0.
   Halves end at 65504 and at 6e-8: MLA_SPLIT_ROWS rows are multiplied by a power of two that brings the greatest of their
   finite numbers to [2^14, 2^15). partial_lse gets what undoes it (split_factors.cuh).
   grid: (chunks of rows of all heads, operands). */
#include "split_factors.cuh"
#include "tile.cuh"
#include "weight_scale.cuh"

struct Operand {
  const MlaRows &nope, &rope, &to;
  int heads, positions, dn, columns;
  const int32_t *lengths;
};

__device__ inline Operand operand_of(const MlaParams &p, unsigned operand) {
  switch (operand) {
    case MLA_SPLIT_Q: return {p.q, p.q, p.d_q, p.hq, p.sq, p.dn + p.dr, p.dn + p.dr, p.q_lengths};
    case MLA_SPLIT_K: return {p.k, p.k_rope, p.d_k, p.hkv, p.skv, p.dn, p.dn + p.dr, p.kv_lengths};
    case MLA_SPLIT_V: return {p.v, p.v, p.d_v, p.hkv, p.skv, p.dv, p.dv, p.kv_lengths};
    default: return {p.d_out, p.d_out, p.out, p.hq, p.sq, p.dv, p.dv, p.q_lengths};
  }
}

__device__ inline float finite_size(float x) { return isfinite(x) ? fabsf(x) : 0; }

/* The greatest of a block's threads. */
__device__ inline float greatest_of_block(float most) {
  constexpr int WARPS = MLA_SPLIT_THREADS / 32;
  __shared__ unsigned of_warps[WARPS];
  const unsigned of_warp = __reduce_max_sync(~0u, __float_as_uint(most));
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = of_warp;
  __syncthreads();
  return __uint_as_float(__reduce_max_sync(~0u, of_warps[threadIdx.x % WARPS]));
}

/* Where a row's chunk of eight highs goes, and that of their lows: as mma.cuh says, or in planes (split.h). */
struct Chunks {
  uint4 *highs, *lows;
};
template <bool IN_PLANES>
__device__ inline Chunks chunks_at(const Operand &operand, int batch, int head, int position, int column) {
  const MlaRows &to = operand.to;
  const int64_t at = batch * to.batch + head * to.head + position * to.position + column;
  uint4 *highs = static_cast<uint4 *>(to.start) + at / (IN_PLANES ? 8 : 4);
  return {highs, highs + (IN_PLANES ? operand.positions * to.position / 8 : 1)};
}

template <bool IN_PLANES>
__device__ inline void split_operand(const MlaArguments &a) {
  const Operand operand = operand_of(a.params, blockIdx.y);
  const int chunks = chunks_of(operand.positions), chunk = blockIdx.x % chunks;
  const int batch = blockIdx.x / chunks / operand.heads, head = blockIdx.x / chunks % operand.heads;
  if (batch >= a.params.batch) return;
  const int first = chunk * MLA_SPLIT_ROWS, row_eights = operand.columns / 8;
  const int all_rows = min(operand.positions - first, MLA_SPLIT_ROWS);
  const int rows = min(clamp_length(operand.lengths, batch, operand.positions) - first, MLA_SPLIT_ROWS);
  const HeadRows<float> from(operand.nope, operand.rope, operand.dn, batch, head);

  float numbers[MLA_SPLIT_EIGHTS][8] = {};
  float most = 0;
#pragma unroll
  for (int i = 0; i < MLA_SPLIT_EIGHTS; i++) {
    const int eight = threadIdx.x + i * MLA_SPLIT_THREADS, row = eight / row_eights;
    if (row >= rows) continue;
    const float4 *start = reinterpret_cast<const float4 *>(from[first + row].at(eight % row_eights * 8));
    reinterpret_cast<float4 &>(numbers[i][0]) = start[0];
    reinterpret_cast<float4 &>(numbers[i][4]) = start[1];
  }
#pragma unroll
  for (int i = 0; i < MLA_SPLIT_EIGHTS; i++) {
    if ((int)(threadIdx.x + i * MLA_SPLIT_THREADS) / row_eights >= rows) continue;
#pragma unroll
    for (int n = 0; n < 8; n++) most = fmaxf(most, finite_size(numbers[i][n]));
  }
  const float power = power_of_two_to(14, greatest_of_block(most));
  if (threadIdx.x == 0) a.partial_lse[first_factor(a.params, (MlaSplit)blockIdx.y) + blockIdx.x] = 1 / power;

#pragma unroll
  for (int i = 0; i < MLA_SPLIT_EIGHTS; i++) {
    const int eight = threadIdx.x + i * MLA_SPLIT_THREADS, row = eight / row_eights;
    if (row >= all_rows) continue;
    unsigned high[4], low[4];
#pragma unroll
    for (int n = 0; n < 4; n++) split(high[n], low[n], numbers[i][2 * n] * power, numbers[i][2 * n + 1] * power);
    const Chunks to = chunks_at<IN_PLANES>(operand, batch, head, first + row, eight % row_eights * 8);
    *to.highs = make_uint4(high[0], high[1], high[2], high[3]);
    *to.lows = make_uint4(low[0], low[1], low[2], low[3]);
  }
}

extern "C" __global__ void __launch_bounds__(MLA_SPLIT_THREADS) split_operands(const __grid_constant__ MlaArguments a) {
  split_operand<false>(a);
}
extern "C" __global__ void __launch_bounds__(MLA_SPLIT_THREADS) split_in_planes(const __grid_constant__ MlaArguments a) {
  split_operand<true>(a);
}
