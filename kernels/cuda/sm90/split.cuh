/* Floats as split halves (../sm80/mma.cuh) on sm_90. In the workspace each head has the rows of its highs and then those of
   its lows, so a map has twice the heads; in shared memory a tile of highs has that of their lows behind it, panel by panel.
   Sums are made of parts, and lose the powers of two of their operands: see ../sm80/products.cuh and
   ../sm80/split_factors.cuh. */
#pragma once

#include "../sm80/split_factors.cuh"
#include "../sm80/weight_scale.cuh"
#include "tile.cuh"

template <int ROWS, int COLUMNS>
struct SplitTile {
  Tile<__half, 2 * ROWS, COLUMNS> halves;

  __device__ uint64_t highs(int row = 0) const { return halves.by_rows(row); }
  __device__ uint64_t lows(int row = 0) const { return halves.by_rows(ROWS + row); }
  __device__ uint64_t panel_by_columns(int panel) const {
    return matrix_by_columns(shared_address(halves.panels[panel]), sizeof halves.panels[0]);
  }
};

/* Begins to copy a tile; `full` counts its bytes. */
template <int ROWS, int COLUMNS>
__device__ inline void copy_tile(SplitTile<ROWS, COLUMNS> &to, const TensorMap &map, int position, int head, int batch,
                                 Barrier &full) {
  for (int panel = 0; panel < to.halves.PANELS; panel++)
    for (int plane = 0; plane < 2; plane++)
      copy_box(to.halves.panels[panel][plane * ROWS], map, panel * PANEL, position, 2 * head + plane, batch, full);
}

/* A thread's share of 64 x COLUMNS sums, in parts: of highs with highs and then with lows, and of lows with highs. */
template <int COLUMNS>
struct SplitSums {
  static constexpr int COUNT = COLUMNS / 2;
  float of_highs[2 * COUNT], of_lows[COUNT];

  /* Begins the product of rows [row, row + 64) of left and rightᵀ. */
  template <int LEFT_ROWS, int DEPTH>
  __device__ void begin(const SplitTile<LEFT_ROWS, DEPTH> &left, int row, const SplitTile<COLUMNS, DEPTH> &right) {
    const uint64_t highs = left.highs(row), lows = left.lows(row), right_rows = right.highs();
    begin_products();
#pragma unroll
    for (int column = 0; column < DEPTH; column += 16) {
      multiply<false>(of_highs, left.halves.at_column(highs, column), right.halves.at_column(right_rows, column), column > 0,
                      __half());
      multiply<false>(of_lows, left.halves.at_column(lows, column), right.halves.at_column(right_rows, column), column > 0,
                      __half());
    }
    commit_products();
  }
  template <int PENDING>
  __device__ void wait() {
    wait_for_products<PENDING>(of_highs);
    pin(of_lows);
  }
  __device__ float get(int i) const { return of_highs[i] + (of_highs[COUNT + i] + of_lows[i]); }
};

/* 64 x DEPTH numbers as the left side of a product. */
template <int DEPTH>
struct SplitLeft {
  unsigned high[DEPTH / 16][4], low[DEPTH / 16][4];

  __device__ void set(const float (&numbers)[DEPTH / 2]) {
#pragma unroll
    for (int i = 0; i < DEPTH / 4; i++) split(high[i / 4][i % 4], low[i / 4][i % 4], numbers[2 * i], numbers[2 * i + 1]);
  }
  __device__ float2 get(int pair) const {
    const float2 highs = unpack(high[pair / 4][pair % 4], __half()), lows = unpack(low[pair / 4][pair % 4], __half());
    return float2{highs.x + lows.x, highs.y + lows.y};
  }
};

/* Begins part = left · columns of right from a panel on. */
template <int COUNT, int DEPTH, int COLUMNS>
__device__ inline void begin_part(float (&part)[COUNT], const SplitLeft<DEPTH> &left,
                                  const SplitTile<DEPTH, COLUMNS> &right, int panel) {
  const uint64_t columns = right.panel_by_columns(panel);
  begin_products();
#pragma unroll
  for (int n = 0; n < DEPTH / 16; n++)
    multiply<true>(part, left.high[n], right.halves.at_row(columns, DEPTH + n * 16), __half(), n > 0);
#pragma unroll
  for (int n = 0; n < DEPTH / 16; n++) multiply<true>(part, left.low[n], right.halves.at_row(columns, n * 16), __half());
#pragma unroll
  for (int n = 0; n < DEPTH / 16; n++) multiply<true>(part, left.high[n], right.halves.at_row(columns, n * 16), __half());
  commit_products();
}
/* sums += factor · part, of columns from a panel on. */
template <int COUNT, int PART>
__device__ inline void add_part(float (&sums)[COUNT], int panel, const float (&part)[PART], float factor) {
#pragma unroll
  for (int i = 0; i < PART; i++) sums[panel * (PANEL / 2) + i] += factor * part[i];
}
/* sums += factor · left · right, WIDTH columns at a time: as many as there are registers for. */
template <int WIDTH, int COUNT, int DEPTH, int COLUMNS>
__device__ inline void add_product(float (&sums)[COUNT], const SplitLeft<DEPTH> &left,
                                   const SplitTile<DEPTH, COLUMNS> &right, float factor) {
  static_assert(COUNT == COLUMNS / 2, "a thread's share of 64 x COLUMNS sums");
#pragma unroll
  for (int panel = 0; panel < COLUMNS / PANEL; panel += WIDTH / PANEL) {
    float part[WIDTH / 2];
    begin_part(part, left, right, panel);
    wait_for_products<0>(part);
    add_part(sums, panel, part, factor);
  }
}

/* Brings the numbers of a warp to the range of halves; returns what undoes it. */
template <int COUNT>
__device__ inline float scale_to_halves(float (&numbers)[COUNT]) {
  float most = 0;
#pragma unroll
  for (int i = 0; i < COUNT; i++) most = fmaxf(most, fabsf(numbers[i]));
  const float power = power_of_two_to(14, __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(most))));
#pragma unroll
  for (int i = 0; i < COUNT; i++) numbers[i] *= power;
  return 1 / power;
}

/* What one consumer gives another that has the same rows, number by number, in memory that nobody reads any more. */
struct Given {
  float *start; /* of the thread */

  template <typename MEMORY>
  __device__ explicit Given(MEMORY &memory) : start(reinterpret_cast<float *>(&memory) + threadIdx.x % WARPGROUP) {}
  __device__ float get(int number) const { return start[number * WARPGROUP]; }
  template <int COUNT>
  __device__ void get(int first, float (&numbers)[COUNT]) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) numbers[i] = get(first + i);
  }
  template <int COUNT>
  __device__ void add_to(float (&numbers)[COUNT], int first) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) numbers[i] += get(first + i);
  }
  template <int COUNT>
  __device__ void put(int first, const float (&numbers)[COUNT]) const {
#pragma unroll
    for (int i = 0; i < COUNT; i++) start[(first + i) * WARPGROUP] = numbers[i];
  }
};
/* When it may be put there, and when it is. The parity is that of the block. */
struct Handover {
  Barrier is_free, is_there;

  __device__ void init() {
    is_free.init(WARPGROUP);
    is_there.init(WARPGROUP);
  }
  template <typename PUT>
  __device__ void give(int parity, PUT put) {
    is_free.wait(parity);
    put();
    publish_shared_memory(); /* before the copy engine writes there again */
    is_there.arrive();
  }
  template <typename GET>
  __device__ void take(int parity, GET get) {
    is_free.arrive();
    is_there.wait(parity);
    get();
  }
};
