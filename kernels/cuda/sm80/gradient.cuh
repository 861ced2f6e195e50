/* What the two kernels of the backward share. Letters and steps are those of gradients/README.md. */
#pragma once

#include "../plan.h"
#include "../visibility.cuh"
#include "softmax.cuh"
#include "tile.cuh"

/* sums += left[row, row + 16) · right[first, first + 8 · GROUPS)ᵀ, over all their columns. */
template <typename T, int LEFT_ROWS, int RIGHT_ROWS, int COLUMNS, int GROUPS>
__device__ inline void multiply_rows(float (&sums)[GROUPS][4], const Tile<T, LEFT_ROWS, COLUMNS> &left, int row,
                                     const Tile<T, RIGHT_ROWS, COLUMNS> &right, int first) {
#pragma unroll
  for (int column = 0; column < COLUMNS; column += 16) {
    unsigned a[4];
    left.load_left(a, row, column);
#pragma unroll
    for (int group = 0; group < GROUPS; group += 2) {
      unsigned b[4];
      right.load_right(b, first + group * 8, column);
      multiply(sums[group], a, b[0], b[1], T());
      multiply(sums[group + 1], a, b[2], b[3], T());
    }
  }
}

/* sums += left · right[first, first + 8 · DEPTH_GROUPS), where left is in the warp's registers. */
template <typename T, int ROWS, int COLUMNS, int DEPTH_GROUPS>
__device__ inline void multiply_sums(float (&sums)[COLUMNS / 8][4], const float (&left)[DEPTH_GROUPS][4],
                                     const Tile<T, ROWS, COLUMNS> &right, int first) {
#pragma unroll
  for (int group = 0; group < DEPTH_GROUPS; group += 2) {
    unsigned a[4];
    pack_left(a, left[group], left[group + 1], T());
#pragma unroll
    for (int column = 0; column < COLUMNS; column += 16) {
      unsigned b[4];
      right.load_right_transposed(b, first + group * 8, column);
      multiply(sums[column / 8], a, b[0], b[1], T());
      multiply(sums[column / 8 + 1], a, b[2], b[3], T());
    }
  }
}

/* dS is as small as dOut, and halves end at 6e-8. P is multiplied by a power of two that leaves 1 in the range, dS by one
   that suits the greatest dS of the warp so far; the sums take both along and lose them at the end. bfloat16 has the
   exponents of float and needs neither. */
template <typename T>
struct GradientScale {
  static constexpr int WEIGHT_EXPONENT = 0;
  template <int GROUPS, int COLUMNS>
  __device__ void fit(float (&)[GROUPS][4], float (&)[COLUMNS][4]) {}
  __device__ float weight_factor() const { return 1; }
  __device__ float gradient_factor() const { return 1; }
};

template <>
struct GradientScale<__half> {
  static constexpr int WEIGHT_EXPONENT = 12;
  static constexpr float MOST = 32768;
  float factor = 0x1p120f;

  /* Multiplies d_s, and makes `sums` those of this factor. */
  template <int GROUPS, int COLUMNS>
  __device__ void fit(float (&d_s)[GROUPS][4], float (&sums)[COLUMNS][4]) {
    float most = 0;
#pragma unroll
    for (int c = 0; c < GROUPS; c++)
#pragma unroll
      for (int i = 0; i < 4; i++) most = fmaxf(most, fabsf(d_s[c][i]));
    if (__any_sync(~0u, most * factor > MOST)) {
      /* the greatest to [2^7, 2^8), so that those to come have room */
      const int exponent = __reduce_max_sync(~0u, __float_as_uint(most)) >> 23;
      const float smaller = __uint_as_float(min(261 - exponent, 247) << 23);
      const float ratio = smaller / factor;
      factor = smaller;
#pragma unroll
      for (int c = 0; c < COLUMNS; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) sums[c][i] *= ratio;
    }
#pragma unroll
    for (int c = 0; c < GROUPS; c++)
#pragma unroll
      for (int i = 0; i < 4; i++) d_s[c][i] *= factor;
  }
  __device__ float weight_factor() const { return 0x1p-12f; }
  __device__ float gradient_factor() const { return 0x1p-12f / factor; }
};

/* Two neighbours of a row of floats or, in any other type, of T. */
template <typename T>
__device__ inline void store_pair(void *row, MlaType type, int column, float first, float second) {
  if (type == MLA_FLOAT32)
    *reinterpret_cast<float2 *>(static_cast<float *>(row) + column) = make_float2(first, second);
  else
    *reinterpret_cast<unsigned *>(static_cast<T *>(row) + column) = pack(first, second, T());
}

/* Row lane/4 + 8 · half of factor · sums, its columns from dn on as a row of their own. */
template <typename T, int GROUPS>
__device__ inline void store_row(const float (&sums)[GROUPS][4], int half, float factor, void *nope, MlaType nope_type,
                                 void *rope, MlaType rope_type, int dn) {
#pragma unroll
  for (int c = 0; c < GROUPS; c++) {
    const int column = c * 8 + threadIdx.x % 4 * 2;
    const float first = sums[c][half * 2] * factor, second = sums[c][half * 2 + 1] * factor;
    if (c * 8 < dn)
      store_pair<T>(nope, nope_type, column, first, second);
    else
      store_pair<T>(rope, rope_type, column - dn, first, second);
  }
}
