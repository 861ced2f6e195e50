/* Products of a warp, from tiles in shared memory; sums are [tiles of 16 rows][groups of 8 columns][4], as mma.cuh lays them
   out.

   Tensor cores cut sums off, a little more with each product, and sums that only grow lose as much as TF32 does. So those of
   split floats are made of parts, a few products each, that the other units add, which round. Over the columns of a head, the
   small products of a high and a low are one part, those of two highs another. */
#pragma once

#include "tile.cuh"

/* sums[..][first_group..] += factor · part */
template <int ROWS, int GROUPS, int PART_GROUPS>
__device__ inline void add_part(float (&sums)[ROWS][GROUPS][4], int first_group,
                                const float (&part)[ROWS][PART_GROUPS][4], float factor = 1) {
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int group = 0; group < PART_GROUPS; group++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[r][first_group + group][i] += factor * part[r][group][i];
}

template <int ROWS, int GROUPS>
__device__ inline void multiply_all(float (&sums)[ROWS][GROUPS][4], float factor) {
#pragma unroll
  for (int i = 0; i < ROWS * GROUPS * 4; i++) sums[i / 4 / GROUPS][i / 4 % GROUPS][i % 4] *= factor;
}

/* Two groups += left · right, of registers that begin with LEFT and RIGHT. */
template <int LEFT, int RIGHT, typename T, int ROWS, int GROUPS, int REGISTERS>
__device__ inline void multiply_parts(float (&sums)[ROWS][GROUPS][4], int group, const unsigned (&left)[ROWS][REGISTERS],
                                      const unsigned (&right)[REGISTERS], T type) {
  const unsigned(&b)[4] = four<RIGHT>(right);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    multiply(sums[r][group], four<LEFT>(left[r]), b[0], b[1], type);
    multiply(sums[r][group + 1], four<LEFT>(left[r]), b[2], b[3], type);
  }
}
/* The same of all registers. Of split floats the products of a high and a low are added to `lows`, and that of two lows, 2^-22
   of the whole, is left out. */
template <typename T, int ROWS, int GROUPS>
__device__ inline void multiply_two(float (&sums)[ROWS][GROUPS][4], float (&lows)[ROWS][GROUPS][4], int group,
                                    const unsigned (&left)[ROWS][registers_of<T>],
                                    const unsigned (&right)[registers_of<T>], T type) {
  if constexpr (is_split<T>) {
    multiply_parts<4, 0>(lows, group, left, right, __half());
    multiply_parts<0, 4>(lows, group, left, right, __half());
    multiply_parts<0, 0>(sums, group, left, right, __half());
  } else {
    multiply_parts<0, 0>(sums, group, left, right, type);
  }
}

/* sums, or of split floats sums and lows, += left · rightᵀ over the first COUNT columns. */
template <int COUNT, typename T, int ROWS, int GROUPS, int COLUMNS>
__device__ inline void multiply_columns(float (&sums)[ROWS][GROUPS][4], float (&lows)[ROWS][GROUPS][4],
                                        const Blocks<T, COLUMNS> &left, const Blocks<T, COLUMNS> &right) {
#pragma unroll
  for (int column = 0; column < COUNT; column += depth_of<T>) {
    unsigned a[ROWS][registers_of<T>];
#pragma unroll
    for (int r = 0; r < ROWS; r++) left.load(a[r], r * 16, column);
#pragma unroll
    for (int group = 0; group < GROUPS; group += 2) {
      unsigned b[registers_of<T>];
      right.load(b, group * 8, column);
      multiply_two(sums, lows, group, a, b, T());
    }
  }
}

/* sums += left[row, row + 16 · ROWS) · right[first, first + 8 · GROUPS)ᵀ, over all their columns. */
template <typename T, int ROWS, int GROUPS, int LEFT_ROWS, int RIGHT_ROWS, int COLUMNS>
__device__ inline void multiply_rows(float (&sums)[ROWS][GROUPS][4], const Tile<T, LEFT_ROWS, COLUMNS> &left, int row,
                                     const Tile<T, RIGHT_ROWS, COLUMNS> &right, int first) {
  Blocks<T, COLUMNS> left_blocks = left.left_blocks(row), right_blocks = right.right_blocks(first);
  if constexpr (is_split<T>) {
    float lows[ROWS][GROUPS][4] = {};
    constexpr int AT_ONCE = COLUMNS % 64 == 0 ? 64 : 32;
#pragma unroll 1 /* or the registers do not suffice */
    for (int column = 0; column < COLUMNS; column += AT_ONCE) {
      multiply_columns<AT_ONCE>(sums, lows, left_blocks, right_blocks);
      left_blocks.move(AT_ONCE), right_blocks.move(AT_ONCE);
    }
    add_part(sums, 0, lows);
  } else {
    multiply_columns<COLUMNS>(sums, sums, left_blocks, right_blocks);
  }
}

/* sums += left · right, of its depth_of<T> rows from `row` on: two groups are 16 columns, every STEP columns. */
template <int STEP, typename T, int ROWS, int GROUPS, int COLUMNS>
__device__ inline void multiply_left(float (&sums)[ROWS][GROUPS][4], const unsigned (&left)[ROWS][registers_of<T>],
                                     const DeepBlocks<T, COLUMNS> &right, int row, int first_group = 0) {
#pragma unroll
  for (int group = 0; group < GROUPS; group += 2) {
    unsigned b[registers_of<T>];
    right.load(b, row, (first_group + group) / 2 * STEP);
    multiply_two(sums, sums, group, left, b, T());
  }
}

/* Columns of numbers as the left side of a product, depth_of<T> from `column` on: of TF32 in the order 0 2 4 6, 1 3 5 7. */
template <typename T, int GROUPS>
__device__ inline void pack_left(unsigned (&left)[registers_of<T>], const float (&numbers)[GROUPS][4], int column) {
  const float(&first)[4] = numbers[column / 8];
  if constexpr (is_tf32<T>) {
#pragma unroll
    for (int i = 0; i < 4; i++) left[i] = __float_as_uint(first[i / 2 + i % 2 * 2]);
  } else if constexpr (is_split<T>) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float(&group)[4] = numbers[column / 8 + i / 2];
      split(left[i], left[i + 4], group[i % 2 * 2], group[i % 2 * 2 + 1]);
    }
  } else {
    const float(&second)[4] = numbers[column / 8 + 1];
    left[0] = pack(first[0], first[1], T());
    left[1] = pack(first[2], first[3], T());
    left[2] = pack(second[0], second[1], T());
    left[3] = pack(second[2], second[3], T());
  }
}
