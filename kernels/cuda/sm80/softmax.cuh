/* Scores in the registers of a warp, as mma.cuh lays sums out: [tiles of 16 rows][groups of 8 columns][4]. */
#pragma once

#include "../visibility.cuh"
#include "mma.cuh"

/* Of COUNT neighbouring lanes. */
template <int COUNT>
__device__ inline float sum_of_lanes(float x) {
#pragma unroll
  for (int step = 1; step < COUNT; step *= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}
template <int COUNT>
__device__ inline float max_of_lanes(float x) {
#pragma unroll
  for (int step = 1; step < COUNT; step *= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}
__device__ inline float sum_of_quad(float x) { return sum_of_lanes<4>(x); }
__device__ inline float max_of_quad(float x) { return max_of_lanes<4>(x); }

/* Scores of keys that their query does not see become -inf. */
template <int ROWS, int GROUPS>
__device__ inline void hide(float (&scores)[ROWS][GROUPS][4], const Visibility &visibility, int first_query,
                            int first_key) {
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      Range keys = visibility.keys_of(first_query + r * 16 + half * 8 + lane / 4);
#pragma unroll
      for (int c = 0; c < GROUPS; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          int key = first_key + c * 8 + lane % 4 * 2 + i;
          if (key < keys.lo || key >= keys.hi) scores[r][c][half * 2 + i] = -INFINITY;
        }
    }
}

/* The greatest score and the sum of weights of each row so far; a row is [tile of 16][half], the same in four lanes, which
   have the weights of their own columns in `total`. */
template <int ROWS>
struct RowState {
  float greatest[ROWS][2], total[ROWS][2];

  __device__ RowState() {
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) greatest[r][half] = -INFINITY, total[r][half] = 0;
  }

  /* Scores become weights exp(scale · (score - greatest)); `sums` become those against the new greatest score. */
  template <int GROUPS, int COLUMNS>
  __device__ void weigh(float (&scores)[ROWS][GROUPS][4], float softmax_scale, float (&sums)[ROWS][COLUMNS][4]) {
    const float scale = softmax_scale * LOG2_E;
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float most = greatest[r][half];
#pragma unroll
        for (int c = 0; c < GROUPS; c++) most = fmaxf(most, fmaxf(scores[r][c][half * 2], scores[r][c][half * 2 + 1]));
        most = max_of_quad(most);
        /* a row that has seen nothing yet has weights of 0 */
        const float reference = most == -INFINITY ? 0 : most * scale;
        const float alpha = exp2_fast(greatest[r][half] * scale - reference);
        greatest[r][half] = most;
        float sum = 0;
#pragma unroll
        for (int c = 0; c < GROUPS; c++)
#pragma unroll
          for (int i = half * 2; i < half * 2 + 2; i++) {
            scores[r][c][i] = exp2_fast(scores[r][c][i] * scale - reference);
            sum += scores[r][c][i];
          }
        total[r][half] = total[r][half] * alpha + sum;
        if (__any_sync(~0u, alpha != 1))
#pragma unroll
          for (int c = 0; c < COLUMNS; c++) sums[r][c][half * 2] *= alpha, sums[r][c][half * 2 + 1] *= alpha;
      }
  }

  /* `row_total` is that of all columns. */
  __device__ float lse(int r, int half, float row_total, float softmax_scale) const {
    return row_total > 0 ? greatest[r][half] * softmax_scale + logf(row_total) : -INFINITY;
  }
};
