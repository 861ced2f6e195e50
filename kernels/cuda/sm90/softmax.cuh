/* Steps F1 to F3 of gradients/README.md on the scores of a warpgroup, as its products leave them (wgmma.cuh): a thread has
   columns of two rows, eight apart, and the other columns of these rows are in the three threads beside it. */
#pragma once

#include <math.h>

#include "../exponential.cuh"
#include "../visibility.cuh"

/* Over the four threads of a row. */
__device__ inline float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ inline float row_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

/* What the rows do not see becomes -inf. seen[i] are the keys that row i of the thread sees; `key` is the first of the
   tile's. */
template <int COUNT>
__device__ inline void hide_unseen(float (&scores)[COUNT], const Range (&seen)[2], int key) {
  int first = key + threadIdx.x % 4 * 2;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    int lo = seen[i].lo - first;
    unsigned count = max(seen[i].hi - seen[i].lo, 0);
#pragma unroll
    for (int n = 0; n < COUNT; n += 4)
#pragma unroll
      for (int j = 0; j < 2; j++)
        if (static_cast<unsigned>(n * 2 + j - lo) >= count) scores[n + 2 * i + j] = -INFINITY;
  }
}

/* The softmax of two rows while their keys come tile by tile. */
struct OnlineSoftmax {
  float scale;           /* of the scores, in the unit of exp2 */
  float largest[2];      /* score so far, without the scale: what weights refer to */
  float sum[2] = {0, 0}; /* of this thread's columns */

  __device__ explicit OnlineSoftmax(float softmax_scale)
      : scale(softmax_scale * LOG2_E), largest{-INFINITY, -INFINITY} {}

  /* The largest of the thread's scores so far and now. */
  template <int COUNT>
  __device__ void find_largest(const float (&scores)[COUNT], float (&most)[2]) const {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      most[i] = largest[i];
#pragma unroll
      for (int n = 0; n < COUNT; n += 4) most[i] = fmaxf(most[i], fmaxf(scores[n + 2 * i], scores[n + 2 * i + 1]));
    }
  }

  /* From here on weights refer to these scores. What was summed under the weights so far is to be multiplied by
     factor[i]. */
  __device__ void refer_to(const float (&most)[2], float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      factor[i] = most[i] == largest[i] ? 1 : exp2_fast(largest[i] * scale - most[i] * scale);
      largest[i] = most[i];
      sum[i] *= factor[i];
    }
  }
  /* Makes weights of a tile's scores that refer to `most`. */
  template <int COUNT>
  __device__ void weigh(float (&scores)[COUNT], const float (&most)[2], float (&factor)[2]) {
    refer_to(most, factor);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float reference = most[i] == -INFINITY ? 0 : most[i] * scale, added = 0;
#pragma unroll
      for (int n = 0; n < COUNT; n += 4)
#pragma unroll
        for (int j = 0; j < 2; j++) {
          float weight = exp2_fast(fmaf(scores[n + 2 * i + j], scale, -reference));
          scores[n + 2 * i + j] = weight;
          added += weight;
        }
      sum[i] += added;
    }
  }
  template <int COUNT>
  __device__ void weigh(float (&scores)[COUNT], float (&factor)[2]) {
    float most[2];
    find_largest(scores, most);
    for (int i = 0; i < 2; i++) most[i] = row_max(most[i]);
    weigh(scores, most, factor);
  }

  /* After the last tile: all weights of row i of the thread, and the logarithm of their sum. */
  __device__ float whole_sum(int i) const { return row_sum(sum[i]); }
  __device__ float lse(int i, float whole_sum) const {
    return whole_sum > 0 ? (largest[i] * scale + log2f(whole_sum)) * LN_2 : -INFINITY;
  }
};
