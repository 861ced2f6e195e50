/* Tiles of 16-bit numbers in shared memory as wgmma and TMA know them, and how they are filled, multiplied and written. */
#pragma once

#include "../mla_params.h"
#include "tma.cuh"
#include "wgmma.cuh"

constexpr int WARPGROUP = 128; /* threads */
constexpr int WARPGROUP_ROWS = 64;

template <typename T, int ROWS, int COLUMNS>
struct Tile {
  static constexpr int PANELS = COLUMNS / PANEL;
  T panels[PANELS][ROWS][PANEL];

  /* From this row on, as a side of a product whose depth are the columns. */
  __device__ uint64_t by_rows(int row) const { return matrix_by_rows(shared_address(panels[0][row])); }
  static __device__ uint64_t at_column(uint64_t rows, int column) {
    return further(rows, column / PANEL * sizeof(T[ROWS][PANEL]) + column % PANEL * sizeof(T));
  }
  /* The right side of a product whose depth are the rows. */
  __device__ uint64_t by_columns() const { return matrix_by_columns(shared_address(panels), sizeof panels[0]); }
  static __device__ uint64_t at_row(uint64_t columns, int row) { return further(columns, row * sizeof(T[PANEL])); }

  /* Zeros from a row on, for what was copied from beyond a length: it may be NaN, which a weight of 0 makes no 0 of. */
  __device__ void clear_from(int row, int thread, int threads) {
    constexpr int ROW_WORDS = PANEL * sizeof(T) / sizeof(uint4);
    for (int panel = 0; panel < PANELS; panel++)
      for (int i = max(row, 0) * ROW_WORDS + thread; i < ROWS * ROW_WORDS; i += threads)
        reinterpret_cast<uint4 *>(panels[panel])[i] = uint4{0, 0, 0, 0};
  }
};

/* Begins sums = rows [row, row + 64) of left · right^T. */
template <typename T, int COUNT, int LEFT_ROWS, int RIGHT_ROWS, int COLUMNS>
__device__ inline void begin_product(float (&sums)[COUNT], const Tile<T, LEFT_ROWS, COLUMNS> &left, int row,
                                     const Tile<T, RIGHT_ROWS, COLUMNS> &right) {
  static_assert(COUNT == RIGHT_ROWS / 2, "a thread's share of 64 x RIGHT_ROWS sums");
  uint64_t left_rows = left.by_rows(row), right_rows = right.by_rows(0);
  begin_products();
#pragma unroll
  for (int column = 0; column < COLUMNS; column += 16)
    multiply<false>(sums, left.at_column(left_rows, column), right.at_column(right_rows, column), column > 0, T());
  commit_products();
}
/* Begins sums += left · right. */
template <typename T, int COUNT, int DEPTH, int COLUMNS>
__device__ inline void begin_addition(float (&sums)[COUNT], const unsigned (&left)[DEPTH / 16][4],
                                      const Tile<T, DEPTH, COLUMNS> &right) {
  static_assert(COUNT == COLUMNS / 2, "a thread's share of 64 x COLUMNS sums");
  uint64_t columns = right.by_columns();
  begin_products();
#pragma unroll
  for (int n = 0; n < DEPTH / 16; n++) multiply<true>(sums, left[n], right.at_row(columns, n * 16), T());
  commit_products();
}
/* Sums as the left side of another product. */
template <typename T, int COUNT>
__device__ inline void pack_left(unsigned (&left)[COUNT / 8][4], const float (&sums)[COUNT], T type) {
#pragma unroll
  for (int i = 0; i < COUNT / 2; i++) left[i / 4][i % 4] = pack(sums[2 * i], sums[2 * i + 1], type);
}

/* The first of the two rows, eight apart, of a thread's sums. */
__device__ inline int row_of_thread() { return threadIdx.x % WARPGROUP / 32 * 16 + threadIdx.x % 32 / 4; }

/* Where TMA finds rows. A tensor whose heads or batch entries are all one has one of them in its map. */
struct RowsMap {
  const TensorMap &map;
  const MlaRows &rows;

  template <typename T, int ROWS, int COLUMNS>
  __device__ void copy(Tile<T, ROWS, COLUMNS> &to, int first_panel, int panels, int position, int head, int batch,
                       Barrier &full) const {
    for (int panel = 0; panel < panels; panel++)
      copy_box(to.panels[first_panel + panel], map, panel * PANEL, position, rows.head ? head : 0,
               rows.batch ? batch : 0, full);
  }
};
/* Begins to copy a tile; `full` counts its bytes. */
template <typename T, int ROWS, int COLUMNS>
__device__ inline void copy_tile(Tile<T, ROWS, COLUMNS> &to, RowsMap from, int position, int head, int batch,
                                 Barrier &full) {
  from.copy(to, 0, to.PANELS, position, head, batch, full);
}
/* The same of [nope | rope], each in whole panels; what a panel has beyond its tensor is 0. */
template <typename T, int ROWS, int COLUMNS>
__device__ inline void copy_tile(Tile<T, ROWS, COLUMNS> &to, RowsMap nope, RowsMap rope, int dn, int position, int head,
                                 int batch, Barrier &full) {
  int nope_panels = (dn + PANEL - 1) / PANEL;
  nope.copy(to, 0, nope_panels, position, head, batch, full);
  rope.copy(to, nope_panels, to.PANELS - nope_panels, position, head, batch, full);
}

/* Writes the 8 columns of two neighbouring groups, of which this thread has a pair each; nothing if `row` is null.
   Of halves, even threads trade their pair of `high` for the pair of `low` to their right, so that each writes 8 bytes. */
template <typename T>
__device__ inline void write_pairs(T *row, int column, float2 low, float2 high) {
  unsigned low_pair = pack(low.x, low.y, T()), high_pair = pack(high.x, high.y, T());
  int odd = threadIdx.x % 2;
  unsigned other = __shfl_xor_sync(~0u, odd ? low_pair : high_pair, 1);
  uint2 four = odd ? uint2{other, high_pair} : uint2{low_pair, other};
  if (row) *reinterpret_cast<uint2 *>(row + column + odd * 8 + threadIdx.x % 4 / 2 * 4) = four;
}
__device__ inline void write_pairs(float *row, int column, float2 low, float2 high) {
  if (!row) return;
  row += column + threadIdx.x % 4 * 2;
  *reinterpret_cast<float2 *>(row) = low;
  *reinterpret_cast<float2 *>(row + 8) = high;
}
/* Writes sums times factor, or 0 if nothing is seen, to the thread's row i: `columns` of them to `nope`, and to `rope` the
   rope_columns from rope_first on. What is null is not written. */
template <typename Out, int COUNT>
__device__ inline void write_row(Out *nope, Out *rope, const float (&sums)[COUNT], int i, int columns, int rope_first,
                                 int rope_columns, float factor, bool is_seen = true) {
#pragma unroll
  for (int n = 0; n < COUNT / 4; n += 2) {
    int column = n * 8;
    bool is_rope = column >= rope_first;
    if (is_rope) column -= rope_first;
    Out *row = column >= (is_rope ? rope_columns : columns) ? nullptr : is_rope ? rope : nope;
    const float *low = sums + 4 * n + 2 * i, *high = low + 4;
    write_pairs(row, column, is_seen ? float2{low[0] * factor, low[1] * factor} : float2{},
                is_seen ? float2{high[0] * factor, high[1] * factor} : float2{});
  }
}
/* The same of sums that are one tensor's. */
template <typename Out, int COUNT>
__device__ inline void write_row(Out *row, const float (&sums)[COUNT], int i, int columns, float factor,
                                 bool is_seen = true) {
  write_row(row, row, sums, i, columns, COUNT * 2, 0, factor, is_seen);
}
template <typename Out>
__device__ inline Out *row_of(const MlaRows &rows, int batch, int position, int head) {
  return static_cast<Out *>(rows.start) + batch * rows.batch + position * rows.position + head * rows.head;
}

/* One thread of each warp says that the warp is done with a buffer. */
__device__ inline void leave(Barrier &empty) {
  __syncwarp(); /* the others' own reads come before */
  if (threadIdx.x % 32 == 0) empty.arrive();
}
