/* What the two kernels of the backward share. Letters and steps are those of gradients/README.md.

   Two warps own 32 rows, and walk over tiles of columns. Each makes the scores of the 32 rows with its half of the tile's
   columns, and owns every other 16 columns of the result's rows: so a fragment from shared memory, whose bandwidth is what
   bounds these kernels, serves 32 rows everywhere. What the one has made the other gets through shared memory. Floats, which
   take twice the registers, have pairs of 16 rows. */
#pragma once

#include "../plan.h"
#include "../visibility.cuh"
#include "products.cuh"
#include "results.cuh"
#include "softmax.cuh"
#include "split_factors.cuh"
#include "weight_scale.cuh"

template <typename T>
constexpr int row_tiles = sizeof(T) == 4 ? 1 : 2; /* of 16 rows */

template <typename T>
struct Pair {
  static constexpr int ROWS = row_tiles<T> * 16;
  int number, side; /* side 0 or 1 is this warp's */

  __device__ Pair() : number(threadIdx.x / 64), side(threadIdx.x / 32 % 2) {}
  __device__ int row() const { return number * ROWS; }
  /* The first column of the warp's, and that of its groups of eight. */
  __device__ int column() const { return side * 16; }
  __device__ int column_of(int group) const { return group / 2 * 32 + column() + group % 2 * 8; }
  __device__ void sync() const { asm volatile("bar.sync %0, 64;" ::"r"(number + 1) : "memory"); }
};

/* P or dS of a pair: [rows][PART] of each of its warps, as left sides of products. */
template <typename T, int PART>
struct Exchange {
  static constexpr int WARP_BYTES = Tile<T, Pair<T>::ROWS, PART>::BYTES;
  unsigned start; /* of the pair's memory */

  __device__ Tile<T, Pair<T>::ROWS, PART> of_side(int side) const { return {start + side * WARP_BYTES}; }
};

/* Packed left sides of the warp's PART columns, which the other warp gets a copy of. */
template <typename T, int PART>
struct LeftSides {
  static constexpr int DEPTH = depth_of<T>, TILES = row_tiles<T>;
  unsigned sides[PART / DEPTH][TILES][registers_of<T>];

  __device__ void pack(const float (&numbers)[TILES][PART / 8][4], const Tile<T, Pair<T>::ROWS, PART> &copy) {
#pragma unroll
    for (int depth = 0; depth < PART; depth += DEPTH)
#pragma unroll
      for (int r = 0; r < TILES; r++) {
        pack_left<T>(sides[depth / DEPTH][r], numbers[r], depth);
        copy.store_left(sides[depth / DEPTH][r], r * 16, depth);
      }
  }
  /* Those of the other warp. */
  __device__ void load(const Tile<T, Pair<T>::ROWS, PART> &copy) {
    const Blocks<T, PART> blocks = copy.left_blocks();
#pragma unroll
    for (int depth = 0; depth < PART; depth += DEPTH)
#pragma unroll
      for (int r = 0; r < TILES; r++) blocks.load(sides[depth / DEPTH][r], r * 16, depth);
  }
  /* Numbers 2 · half and 2 · half + 1 of a group of eight columns. */
  __device__ float2 get(int r, int group, int half) const {
    if constexpr (is_tf32<T>) {
      return make_float2(__uint_as_float(sides[group][r][half]), __uint_as_float(sides[group][r][half + 2]));
    } else if constexpr (is_split<T>) {
      const unsigned(&side)[8] = sides[group / 2][r];
      const float2 high = unpack(side[group % 2 * 2 + half], __half()), low = unpack(side[group % 2 * 2 + half + 4], __half());
      return make_float2(high.x + low.x, high.y + low.y);
    } else {
      return unpack(sides[group / 2][r][group % 2 * 2 + half], T());
    }
  }
};

/* sums += factor · the warp's PART columns · right, which is as many rows; every other 16 columns of right. Only split floats
   have a factor. */
template <typename T, int PART, int TILES, int COLUMNS, int GROUPS>
__device__ inline void multiply_own(float (&sums)[TILES][GROUPS][4], const LeftSides<T, PART> &left,
                                    const DeepBlocks<T, COLUMNS> &right, float factor) {
  constexpr int DEPTH = depth_of<T>;
  if constexpr (is_split<T>) {
#pragma unroll
    for (int group = 0; group < GROUPS; group += 2) {
      float part[TILES][2][4] = {};
#pragma unroll
      for (int row = 0; row < PART; row += DEPTH) multiply_left<32>(part, left.sides[row / DEPTH], right, row, group);
      add_part(sums, group, part, factor);
    }
  } else {
#pragma unroll
    for (int row = 0; row < PART; row += DEPTH) multiply_left<32>(sums, left.sides[row / DEPTH], right, row);
  }
}

/* The same with those of the other warp. */
template <typename T, int PART, int TILES, int COLUMNS, int GROUPS>
__device__ inline void multiply_other(float (&sums)[TILES][GROUPS][4], const Tile<T, Pair<T>::ROWS, PART> &left,
                                      const DeepBlocks<T, COLUMNS> &right, float factor) {
  if constexpr (is_split<T>) {
    LeftSides<T, PART> sides;
    sides.load(left);
    multiply_own(sums, sides, right, factor);
  } else {
    const Blocks<T, PART> left_blocks = left.left_blocks();
#pragma unroll
    for (int row = 0; row < PART; row += depth_of<T>) {
      unsigned a[TILES][registers_of<T>];
#pragma unroll
      for (int r = 0; r < TILES; r++) left_blocks.load(a[r], r * 16, row);
      multiply_left<32>(sums, a, right, row);
    }
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
  template <int TILES, int GROUPS, int COLUMNS>
  __device__ void fit(const Pair<T> &, unsigned, float (&)[TILES][GROUPS][4], float (&)[TILES][COLUMNS][4]) {}
  __device__ void sync_only(const Pair<T> &) const {}
  __device__ float own_factor() const { return 1; }
  __device__ float other_factor(const Pair<T> &, unsigned) const { return 1; }
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
  __device__ void fit(const Pair<__half> &pair, unsigned greatest, float (&d_s)[2][GROUPS][4], float (&sums)[2][COLUMNS][4]) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < 2 * GROUPS * 4; i++) most = fmaxf(most, fabsf(d_s[i / 4 / GROUPS][i / 4 % GROUPS][i % 4]));
    const unsigned of_warp = __reduce_max_sync(~0u, __float_as_uint(most));
    if (threadIdx.x % 32 == 0) store_shared(greatest + pair.side * 4, of_warp);
    pair.sync();
    const unsigned bits = max(load_shared(greatest), load_shared(greatest + 4));
    if (__uint_as_float(bits) * factor > MOST) lower(bits >> 23, sums);
#pragma unroll
    for (int i = 0; i < 2 * GROUPS * 4; i++) d_s[i / 4 / GROUPS][i / 4 % GROUPS][i % 4] *= factor;
  }
  /* The barriers of fit. */
  __device__ void sync_only(const Pair<__half> &pair) const { pair.sync(); }

  /* Brings a number of this exponent, counted as in its bits, to [2^7, 2^8), so that those to come have room. */
  template <int COLUMNS>
  __device__ void lower(unsigned exponent, float (&sums)[2][COLUMNS][4]) {
    const float smaller = __uint_as_float(min(127 + 7 + 127 - exponent, 247u) << 23);
    const float ratio = smaller / factor;
    factor = smaller;
#pragma unroll
    for (int i = 0; i < 2 * COLUMNS * 4; i++) sums[i / 4 / COLUMNS][i / 4 % COLUMNS][i % 4] *= ratio;
  }
  __device__ float own_factor() const { return 1; }
  __device__ float other_factor(const Pair<__half> &, unsigned) const { return 1; }
  __device__ float scale_delta(float delta) const { return delta * d_out; }
  __device__ float weight_factor() const { return 0x1p-12f / d_out; }
  __device__ float gradient_factor() const { return 0x1p-12f / factor / d_out; }
};

/* Sums of split floats are made of parts. Each loses at once the power of two that suits the dS of its warp in this tile. */
template <>
struct GradientScale<SplitHalf> {
  static constexpr int WEIGHT_EXPONENT = 12;
  float factor; /* that undoes the power of the warp's part */

  __device__ explicit GradientScale(const float *) {}

  template <int TILES, int GROUPS, int COLUMNS>
  __device__ void fit(const Pair<SplitHalf> &pair, unsigned factors, float (&d_s)[TILES][GROUPS][4],
                      float (&)[TILES][COLUMNS][4]) {
    float most = 0;
#pragma unroll
    for (int i = 0; i < TILES * GROUPS * 4; i++) most = fmaxf(most, fabsf(d_s[i / 4 / GROUPS][i / 4 % GROUPS][i % 4]));
    most = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most)));
    const float power = power_of_two_to(14, most);
    factor = 1 / power;
    if (threadIdx.x % 32 == 0) store_shared(factors + pair.side * 4, __float_as_uint(factor));
#pragma unroll
    for (int i = 0; i < TILES * GROUPS * 4; i++) d_s[i / 4 / GROUPS][i / 4 % GROUPS][i % 4] *= power;
  }
  __device__ void sync_only(const Pair<SplitHalf> &) const {}
  __device__ float own_factor() const { return factor; }
  /* That of the other warp, which is there after the next barrier. */
  __device__ float other_factor(const Pair<SplitHalf> &pair, unsigned factors) const {
    return __uint_as_float(load_shared(factors + (1 - pair.side) * 4));
  }
  __device__ float scale_delta(float delta) const { return delta; }
  __device__ float weight_factor() const { return 0x1p-12f; }
  __device__ float gradient_factor() const { return 0x1p-12f; }
};

/* Row lane/4 + 8 · half of factor · sums. */
template <typename T, int GROUPS>
__device__ inline void store_row(const ResultRow &row, const float (&sums)[GROUPS][4], int half, float factor,
                                 const Pair<T> &pair) {
#pragma unroll
  for (int c = 0; c < GROUPS; c += 2) store_sixteen<T>(row, pair.column_of(c), sums[c], sums[c + 1], half, factor);
}
