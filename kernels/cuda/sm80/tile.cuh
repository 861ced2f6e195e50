/* Tiles of numbers in shared memory, row after row. The 16-byte chunks of a row change places with the row's number, so that
   eight rows at one column lie in eight different groups of banks. */
#pragma once

#include "../mla_params.h"
#include "mma.cuh"

template <typename T>
constexpr int chunk_of = 16 / sizeof(T); /* numbers in 16 bytes */
constexpr int CHUNK = 8;                 /* those of 16 bits */

/* Blocks of a tile as a lane reads them. Places that are constants cost no instruction but for a few first ones. */
template <typename T, int COLUMNS>
struct Blocks {
  static constexpr int ROW_BYTES = COLUMNS * sizeof(T);
  static_assert(ROW_BYTES % 64 == 0 || ROW_BYTES == 32, "eight rows fill all banks");
  static constexpr int TURNS = ROW_BYTES % 128 == 0 ? 8 : ROW_BYTES == 32 ? 2 : 4;

  unsigned start; /* of the block at 0, 0 */

  __device__ unsigned at(int row, int column, int part = 0) const {
    const int chunk = column / chunk_of<T> + part;
    return (start ^ chunk % TURNS * 16) + (chunk / TURNS * TURNS * 16 + row * ROW_BYTES);
  }
  /* A left side, or two right sides. */
  __device__ void load(unsigned (&to)[registers_of<T>], int row, int column) const {
    load_matrices(four<0>(to), at(row, column));
    if constexpr (is_split<T>) load_matrices(four<4>(to), at(row, column, 1));
  }
  /* By columns that fill 128 bytes. */
  __device__ void move(int columns) { start += columns * sizeof(T); }
};

/* Blocks that are right sides as they lie, depth first: depth_of<T> rows of sixteen columns, two times two registers.
   No instruction transposes floats: a lane reads two neighbours in each of two rows. So the rows come in the order 0 2 4 6,
   1 3 5 7, as in pack_left, and of the sixteen columns the even ones are the first group of products, see store_sixteen. */
template <typename T, int COLUMNS>
struct DeepBlocks {
  Blocks<T, COLUMNS> of_lane[is_tf32<T> ? 2 : 1];

  __device__ void load(unsigned (&to)[registers_of<T>], int row, int column) const {
    if constexpr (is_tf32<T>) {
      load_pair(to[0], to[2], of_lane[0].at(row, column));
      load_pair(to[1], to[3], of_lane[1].at(row, column));
    } else {
      load_matrices_transposed(four<0>(to), of_lane[0].at(row, column));
      if constexpr (is_split<T>) load_matrices_transposed(four<4>(to), of_lane[0].at(row, column, 1));
    }
  }
};

template <typename T, int ROWS, int COLUMNS>
struct Tile {
  static constexpr int CHUNK = chunk_of<T>, ROW_BYTES = Blocks<T, COLUMNS>::ROW_BYTES;
  static constexpr int TURNS = Blocks<T, COLUMNS>::TURNS;
  static constexpr int CHUNKS = COLUMNS / CHUNK;
  static constexpr int NEXT = is_split<T> ? 2 : 1; /* chunks from one to the next of a fragment */
  static constexpr int BYTES = ROWS * ROW_BYTES;

  unsigned start; /* address in shared memory */

  __device__ unsigned address(int row, int chunk) const {
    const int turn = row / (8 / TURNS) % TURNS;
    return start + row * ROW_BYTES + (chunk ^ turn) * 16;
  }

  /* Left sides from a row on, a multiple of 8: 16 rows and depth_of<T> columns. */
  __device__ Blocks<T, COLUMNS> left_blocks(int row = 0) const {
    const int lane = threadIdx.x % 32;
    return {address(row + lane % 16, lane / 16 * NEXT)};
  }
  /* The same of two right sides whose columns are rows here: 16 rows and depth_of<T> columns. */
  __device__ Blocks<T, COLUMNS> right_blocks(int row = 0) const {
    const int lane = threadIdx.x % 32;
    return {address(row + lane % 8 + lane / 16 * 8, lane / 8 % 2 * NEXT)};
  }
  /* The same of right sides as they lie, from a column on that is in bits which no column given to load() has. */
  __device__ DeepBlocks<T, COLUMNS> deep_blocks(int row = 0, int column = 0) const {
    const int lane = threadIdx.x % 32;
    if constexpr (is_tf32<T>) {
      const int first = row + lane % 4 * 2, chunk = column / CHUNK + lane / 8, place = lane / 4 % 2 * 8;
      return {{{address(first, chunk) + place}, {address(first + 1, chunk) + place}}};
    } else {
      return {{{address(row + lane % 16, column / CHUNK + lane / 16 * NEXT)}}};
    }
  }

  /* The left side of a product: rows [row, row + 16), columns from `column` on. */
  __device__ void load_left(unsigned (&to)[registers_of<T>], int row, int column) const {
    left_blocks(row).load(to, 0, column);
  }
  /* Puts what load_left gets. */
  __device__ void store_left(const unsigned (&from)[registers_of<T>], int row, int column) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < registers_of<T>; i++) {
      const int chunk = column / CHUNK + i / 2 % 2 * NEXT + i / 4;
      store_shared(address(row + lane / 4 + i % 2 * 8, chunk) + lane % 4 * 4, from[i]);
    }
  }
};

/* The start of a row, whose numbers are of `type`. */
__device__ inline void *row_of(const MlaRows &rows, MlaType type, int batch, int64_t position, int head) {
  const int64_t index = batch * rows.batch + position * rows.position + head * rows.head;
  return static_cast<char *>(rows.start) + index * (type == MLA_FLOAT32 ? 4 : 2);
}

/* The rows of one head in memory: [nope | rope], which may be two tensors. */
template <typename T>
struct HeadRows {
  const T *nope, *rope;
  int64_t nope_stride, rope_stride; /* from one position to the next */
  int dn;

  __device__ HeadRows(const MlaRows &nope_rows, const MlaRows &rope_rows, int dn, int batch, int head)
      : nope(static_cast<const T *>(nope_rows.start) + batch * nope_rows.batch + head * nope_rows.head),
        rope(static_cast<const T *>(rope_rows.start) + batch * rope_rows.batch + head * rope_rows.head),
        nope_stride(nope_rows.position),
        rope_stride(rope_rows.position),
        dn(dn) {}

  /* From one position on. */
  struct Row {
    const T *nope, *rope;
    int dn;
    __device__ const T *at(int column) const { return (column < dn ? nope : rope) + column; }
  };
  __device__ Row operator[](int position) const {
    return {nope + position * nope_stride, rope + position * rope_stride - dn, dn};
  }
  __device__ void move(Row &row, int positions) const {
    row.nope += positions * nope_stride;
    row.rope += positions * rope_stride;
  }
};

/* Begins to copy the rows [first, first + ROWS) into a tile; zeros where they are not in [lo, hi). */
template <int THREADS, typename T, int ROWS, int COLUMNS>
__device__ inline void copy_rows(const Tile<T, ROWS, COLUMNS> &tile, const HeadRows<T> &rows, int first, int lo, int hi) {
  constexpr int CHUNK = chunk_of<T>, CHUNKS = COLUMNS / CHUNK;
  constexpr int LANES = CHUNKS % 8 == 0 ? 8 : 4; /* neighbours that copy of one row */
  constexpr int ROWS_AT_ONCE = THREADS / LANES;
  const int chunk = threadIdx.x % LANES, thread_row = threadIdx.x / LANES;
  typename HeadRows<T>::Row row = rows[first + thread_row];
#pragma unroll
  for (int i = 0; i < ROWS; i += ROWS_AT_ONCE) {
    if (ROWS % ROWS_AT_ONCE != 0 && i + thread_row >= ROWS) break;
    const int position = first + i + thread_row;
#pragma unroll
    for (int c = 0; c < CHUNKS; c += LANES)
      copy_async(tile.address(i + thread_row, c + chunk), row.at((c + chunk) * CHUNK), position >= lo && position < hi);
    rows.move(row, ROWS_AT_ONCE);
  }
}
