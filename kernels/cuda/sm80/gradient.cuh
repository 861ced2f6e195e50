/* What the two kernels of the backward share. Letters and steps are those of gradients/README.md.

   Two warps own 32 rows, and walk over tiles of columns. Each makes the scores of the 32 rows with its half of the tile's
   columns, and owns every other 16 columns of the result's rows: so a fragment from shared memory, whose bandwidth is what
   bounds these kernels, serves 32 rows everywhere. What the one has made the other gets through shared memory. */
#pragma once

#include "../plan.h"
#include "../visibility.cuh"
#include "softmax.cuh"
#include "tile.cuh"

constexpr int PAIR_ROWS = 32;

struct Pair {
  int number, side; /* side 0 or 1 is this warp's */

  __device__ Pair() : number(threadIdx.x / 64), side(threadIdx.x / 32 % 2) {}
  __device__ int row() const { return number * PAIR_ROWS; }
  /* The first column of the warp's, and that of its groups of eight. */
  __device__ int column() const { return side * 16; }
  __device__ int column_of(int group) const { return group / 2 * 32 + column() + group % 2 * 8; }
  __device__ void sync() const { asm volatile("bar.sync %0, 64;" ::"r"(number + 1) : "memory"); }
};

/* sums += left[row, row + 32) · right[first, first + 8 · GROUPS)ᵀ, over all their columns. */
template <typename T, int LEFT_ROWS, int RIGHT_ROWS, int COLUMNS, int GROUPS>
__device__ inline void multiply_rows(float (&sums)[2][GROUPS][4], const Tile<T, LEFT_ROWS, COLUMNS> &left, int row,
                                     const Tile<T, RIGHT_ROWS, COLUMNS> &right, int first) {
  const Blocks<COLUMNS> left_blocks = left.blocks(row), right_blocks = right.right_blocks(first);
#pragma unroll
  for (int column = 0; column < COLUMNS; column += 16) {
    unsigned a[2][4];
#pragma unroll
    for (int r = 0; r < 2; r++) load_matrices(a[r], left_blocks.at(r * 16, column));
#pragma unroll
    for (int group = 0; group < GROUPS; group += 2) {
      unsigned b[4];
      load_matrices(b, right_blocks.at(group * 8, column));
#pragma unroll
      for (int r = 0; r < 2; r++) {
        multiply(sums[r][group], a[r], b[0], b[1], T());
        multiply(sums[r][group + 1], a[r], b[2], b[3], T());
      }
    }
  }
}

/* sums += left · right, which is every other 16 columns of the 16 rows from `row` on. */
template <typename T, int COLUMNS, int GROUPS>
__device__ inline void multiply_left(float (&sums)[2][GROUPS][4], const unsigned (&left)[2][4],
                                     const Blocks<COLUMNS> &right, int row, T type) {
#pragma unroll
  for (int group = 0; group < GROUPS; group += 2) {
    unsigned b[4];
    load_matrices_transposed(b, right.at(row, group * 16));
#pragma unroll
    for (int r = 0; r < 2; r++) {
      multiply(sums[r][group], left[r], b[0], b[1], type);
      multiply(sums[r][group + 1], left[r], b[2], b[3], type);
    }
  }
}

/* P or dS of a pair: [32 rows][PART] of each of its warps, as left sides of products. */
template <typename T, int PART>
struct Exchange {
  static constexpr int WARP_BYTES = Tile<T, PAIR_ROWS, PART>::BYTES;
  unsigned start; /* of the pair's memory */

  __device__ Tile<T, PAIR_ROWS, PART> of_side(int side) const { return {start + side * WARP_BYTES}; }
};

/* Packed left sides of the warp's PART columns, which the other warp gets a copy of. */
template <typename T, int PART>
struct LeftSides {
  unsigned sides[PART / 16][2][4];

  __device__ void pack(const float (&numbers)[2][PART / 8][4], const Tile<T, PAIR_ROWS, PART> &copy) {
#pragma unroll
    for (int depth = 0; depth < PART / 16; depth++)
#pragma unroll
      for (int r = 0; r < 2; r++) {
        pack_left(sides[depth][r], numbers[r][depth * 2], numbers[r][depth * 2 + 1], T());
        copy.store_left(sides[depth][r], r * 16, depth * 16);
      }
  }
  /* Numbers 2 · half and 2 · half + 1 of a group of eight columns. */
  __device__ float2 get(int r, int group, int half) const { return unpack(sides[group / 2][r][group % 2 * 2 + half], T()); }
};

/* sums += the warp's PART columns · right, which is as many rows. */
template <typename T, int PART, int COLUMNS, int GROUPS>
__device__ inline void multiply_own(float (&sums)[2][GROUPS][4], const LeftSides<T, PART> &left,
                                    const Blocks<COLUMNS> &right) {
#pragma unroll
  for (int depth = 0; depth < PART; depth += 16) multiply_left(sums, left.sides[depth / 16], right, depth, T());
}

/* The same with those of the other warp. */
template <typename T, int PART, int COLUMNS, int GROUPS>
__device__ inline void multiply_other(float (&sums)[2][GROUPS][4], const Tile<T, PAIR_ROWS, PART> &left,
                                      const Blocks<COLUMNS> &right) {
  const Blocks<PART> left_blocks = left.blocks();
#pragma unroll
  for (int depth = 0; depth < PART; depth += 16) {
    unsigned a[2][4];
#pragma unroll
    for (int r = 0; r < 2; r++) load_matrices(a[r], left_blocks.at(r * 16, depth));
    multiply_left(sums, a, right, depth, T());
  }
}

/* dS is as small as dOut, and halves end at 6e-8. P is multiplied by a power of two that leaves 1 in the range, dS by one
   that suits the greatest dS of the pair so far; the sums take both along and lose them at the end. dOut itself may come
   multiplied, by *d_out_power. bfloat16 has the exponents of float and needs none of it.
   `greatest` are two floats of the pair in shared memory. */
template <typename T>
struct GradientScale {
  static constexpr int WEIGHT_EXPONENT = 0;
  __device__ explicit GradientScale(const float *) {}
  template <int GROUPS, int COLUMNS>
  __device__ void fit(const Pair &, unsigned, float (&)[2][GROUPS][4], float (&)[2][COLUMNS][4]) {}
  __device__ void sync_only(const Pair &) const {}
  __device__ float scale_delta(float delta) const { return delta; }
  __device__ float weight_factor() const { return 1; }
  __device__ float gradient_factor() const { return 1; }
};

template <>
struct GradientScale<__half> {
  static constexpr int WEIGHT_EXPONENT = 12;
  static constexpr float MOST = 32768;
  const float d_out;
  float factor = 0x1p120f;

  __device__ explicit GradientScale(const float *d_out_power) : d_out(d_out_power ? *d_out_power : 1) {}

  /* Multiplies d_s, and makes `sums` those of this factor. */
  template <int GROUPS, int COLUMNS>
  __device__ void fit(const Pair &pair, unsigned greatest, float (&d_s)[2][GROUPS][4], float (&sums)[2][COLUMNS][4]) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < 2 * GROUPS * 4; i++) most = fmaxf(most, fabsf(d_s[i / 4 / GROUPS][i / 4 % GROUPS][i % 4]));
    store_shared(greatest + pair.side * 4, __reduce_max_sync(~0u, __float_as_uint(most)));
    pair.sync();
    const unsigned bits = max(load_shared(greatest), load_shared(greatest + 4));
    if (__uint_as_float(bits) * factor > MOST) lower(bits >> 23, sums);
#pragma unroll
    for (int i = 0; i < 2 * GROUPS * 4; i++) d_s[i / 4 / GROUPS][i / 4 % GROUPS][i % 4] *= factor;
  }
  /* The barriers of fit. */
  __device__ void sync_only(const Pair &pair) const { pair.sync(); }

  /* Brings a number of this exponent, counted as in its bits, to [2^7, 2^8), so that those to come have room. */
  template <int COLUMNS>
  __device__ void lower(unsigned exponent, float (&sums)[2][COLUMNS][4]) {
    const float smaller = __uint_as_float(min(127 + 7 + 127 - exponent, 247u) << 23);
    const float ratio = smaller / factor;
    factor = smaller;
#pragma unroll
    for (int i = 0; i < 2 * COLUMNS * 4; i++) sums[i / 4 / COLUMNS][i / 4 % COLUMNS][i % 4] *= ratio;
  }
  __device__ float scale_delta(float delta) const { return delta * d_out; }
  __device__ float weight_factor() const { return 0x1p-12f / d_out; }
  __device__ float gradient_factor() const { return 0x1p-12f / factor / d_out; }
};

/* Two neighbours of a row of floats or, in any other type, of T. */
template <typename T>
__device__ inline void store_pair(void *row, MlaType type, int column, float first, float second) {
  if (type == MLA_FLOAT32)
    *reinterpret_cast<float2 *>(static_cast<float *>(row) + column) = make_float2(first, second);
  else
    *reinterpret_cast<unsigned *>(static_cast<T *>(row) + column) = pack(first, second, T());
}

/* Row lane/4 + 8 · half of factor · sums; the columns from dn on are a row of their own. */
template <typename T, int GROUPS>
__device__ inline void store_row(const float (&sums)[GROUPS][4], int half, float factor, const Pair &pair,
                                 void *nope, MlaType nope_type, void *rope, MlaType rope_type, int dn) {
#pragma unroll
  for (int c = 0; c < GROUPS; c++) {
    const int group = pair.column_of(c), column = group + threadIdx.x % 4 * 2;
    const float x = sums[c][half * 2] * factor, y = sums[c][half * 2 + 1] * factor;
    if (group < dn)
      store_pair<T>(nope, nope_type, column, x, y);
    else
      store_pair<T>(rope, rope_type, column - dn, x, y);
  }
}
