/* Products of a warp, from tiles in shared memory; sums are [tiles of 16 rows][groups of 8 columns][4], as mma.cuh lays them
   out.

   Tensor cores cut sums off, a little more with each product, and sums that only grow lose as much as TF32 does. So those of
   split floats are made of parts, a few products each, that the other units add, which round. */
#pragma once

#include "tile.cuh"

constexpr int PART_COLUMNS = 32; /* of operands, or of sums, that a part is of */

/* sums[..][first_group..] += part */
template <int ROWS, int GROUPS, int PART_GROUPS>
__device__ inline void add_part(float (&sums)[ROWS][GROUPS][4], int first_group,
                                const float (&part)[ROWS][PART_GROUPS][4]) {
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int group = 0; group < PART_GROUPS; group++)
#pragma unroll
      for (int i = 0; i < 4; i++) sums[r][first_group + group][i] += part[r][group][i];
}

/* sums += left · rightᵀ over the first COUNT columns. */
template <int COUNT, typename T, int ROWS, int GROUPS, int COLUMNS>
__device__ inline void multiply_columns(float (&sums)[ROWS][GROUPS][4], const Blocks<T, COLUMNS> &left,
                                        const Blocks<T, COLUMNS> &right) {
#pragma unroll
  for (int column = 0; column < COUNT; column += depth_of<T>) {
    unsigned a[ROWS][4];
#pragma unroll
    for (int r = 0; r < ROWS; r++) load_matrices(a[r], left.at(r * 16, column));
#pragma unroll
    for (int group = 0; group < GROUPS; group += 2) {
      unsigned b[4];
      load_matrices(b, right.at(group * 8, column));
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        multiply(sums[r][group], a[r], b[0], b[1], T());
        multiply(sums[r][group + 1], a[r], b[2], b[3], T());
      }
    }
  }
}

/* sums += left[row, row + 16 · ROWS) · right[first, first + 8 · GROUPS)ᵀ, over all their columns. */
template <typename T, int ROWS, int GROUPS, int LEFT_ROWS, int RIGHT_ROWS, int COLUMNS>
__device__ inline void multiply_rows(float (&sums)[ROWS][GROUPS][4], const Tile<T, LEFT_ROWS, COLUMNS> &left, int row,
                                     const Tile<T, RIGHT_ROWS, COLUMNS> &right, int first) {
  Blocks<T, COLUMNS> left_blocks = left.left_blocks(row), right_blocks = right.right_blocks(first);
  if constexpr (is_split<T>) {
#pragma unroll 1 /* or the registers do not suffice */
    for (int column = 0; column < COLUMNS; column += PART_COLUMNS) {
      float part[ROWS][GROUPS][4] = {};
      multiply_columns<PART_COLUMNS>(part, left_blocks, right_blocks);
      add_part(sums, 0, part);
      left_blocks.move(PART_COLUMNS), right_blocks.move(PART_COLUMNS);
    }
  } else {
    multiply_columns<COLUMNS>(sums, left_blocks, right_blocks);
  }
}

/* sums += left · right, of its depth_of<T> rows from `row` on: two groups are 16 columns, every STEP columns. */
template <int STEP, typename T, int ROWS, int GROUPS, int COLUMNS>
__device__ inline void multiply_left(float (&sums)[ROWS][GROUPS][4], const unsigned (&left)[ROWS][4],
                                     const DeepBlocks<T, COLUMNS> &right, int row, int first_group = 0) {
#pragma unroll
  for (int group = 0; group < GROUPS; group += 2) {
    unsigned b[4];
    right.load(b, row, (first_group + group) / 2 * STEP);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      multiply(sums[r][group], left[r], b[0], b[1], T());
      multiply(sums[r][group + 1], left[r], b[2], b[3], T());
    }
  }
}

/* Columns of numbers as the left side of a product, depth_of<T> from `column` on: floats in the order 0 2 4 6, 1 3 5 7. */
template <typename T, int GROUPS>
__device__ inline void pack_left(unsigned (&left)[4], const float (&numbers)[GROUPS][4], int column) {
  const float(&first)[4] = numbers[column / 8];
  if constexpr (is_float<T>) {
#pragma unroll
    for (int i = 0; i < 4; i++) left[i] = __float_as_uint(first[i / 2 + i % 2 * 2]);
  } else {
    const float(&second)[4] = numbers[column / 8 + 1];
    left[0] = pack(first[0], first[1], T());
    left[1] = pack(first[2], first[3], T());
    left[2] = pack(second[0], second[1], T());
    left[3] = pack(second[2], second[3], T());
  }
}
