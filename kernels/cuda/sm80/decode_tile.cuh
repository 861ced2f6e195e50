/* What the kernels of MLADecode share. A block has left rows in registers and walks over right rows in shared memory:
     products = left · rightᵀ     a warp has 16 or 32 left rows and a quarter of the depth; the parts go to shared memory
     weights  = f(products)       the parts are added, and weights are left in shared memory as 16-bit numbers
     sums    += weights · right   a warp has all left rows and an eighth of the columns
   In shared memory a right row is read by all left rows, and the cache is key and value in one. */
#pragma once

#include "../plan.h"
#include "../visibility.cuh"
#include "decode_tiles.h"
#include "tile.cuh"

constexpr int DEPTH_GROUPS = MLA_DECODE_DEPTH_GROUPS;
constexpr int THREADS = MLA_DECODE_THREADS;
constexpr int WARPS = THREADS / 32;

/* The rows of all heads in memory, as `row` = position · heads + head: [nope | rope], two tensors. */
template <typename E>
struct PackedRows {
  HeadRows<E> first_head;
  int64_t nope_head, rope_head; /* from one head to the next */
  int heads;

  __device__ PackedRows(const MlaRows &nope, const MlaRows &rope, int dn, int batch, int heads)
      : first_head(nope, rope, dn, batch, 0), nope_head(nope.head), rope_head(rope.head), heads(heads) {}

  __device__ E *at(int row, int column) const {
    int head = row % heads;
    return const_cast<E *>(first_head.at(row / heads, column)) + head * (column < first_head.dn ? nope_head : rope_head);
  }
};

/* Where the lse and delta of a packed row are. */
__device__ inline int64_t stat_index(const MlaParams &p, int batch, int row) {
  return ((int64_t)batch * p.hq + row % p.hq) * p.sq + row / p.hq;
}

/* The packed rows that exist of the rows [first, first + count) and the keys that any of them sees. */
__device__ inline Range keys_of_rows(const Visibility &visibility, const MlaParams &p, int first, int count) {
  int query = first / p.hq;
  return visibility.keys_of_any(query, (min(first + count, p.sq * p.hq) - 1) / p.hq - query + 1);
}

/* The tiles of right rows that block `part` of `parts` walks over, all of them as evenly as whole tiles allow. */
template <int RIGHT>
__device__ inline Range part_of(Range seen, int part, int parts) {
  int tiles = seen.hi > seen.lo ? (seen.hi - seen.lo + RIGHT - 1) / RIGHT : 0;
  int lo = seen.lo + (int)((int64_t)tiles * part / parts) * RIGHT;
  return {lo, min(seen.hi, seen.lo + (int)((int64_t)tiles * (part + 1) / parts) * RIGHT)};
}

template <typename T>
__device__ inline unsigned load_pair(const T *from, T) {
  return *reinterpret_cast<const unsigned *>(from);
}
template <typename T>
__device__ inline unsigned load_pair(const float *from, T type) {
  float2 pair = *reinterpret_cast<const float2 *>(from);
  return pack(pair.x, pair.y, type);
}

/* 16 · TILES left rows in the registers of a warp, of each 64 of their first 64 · STEPS columns the sixteen of its depth
   group: so the places of right columns in shared memory differ by constants. */
template <typename T, int TILES, int STEPS>
struct Left {
  unsigned pairs[TILES][STEPS][4];

  /* Rows from `first` on, 0 from `end` on; columns, 0 from 64 · WANTED on. */
  template <int WANTED, typename Rows>
  __device__ void load(const Rows &rows, int first, int end, int depth_group) {
    const int lane = threadIdx.x % 32, column = depth_group * 16 + lane % 4 * 2;
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int row = first + r * 16 + half * 8 + lane / 4;
        const bool is_there = row < end;
        const auto *nope = rows.at(is_there ? row : 0, 0) + column;
        const auto *rope = rows.at(is_there ? row : 0, MLA_DECODE_DN) + column;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
          const auto *from = step * 64 < MLA_DECODE_DN ? nope + step * 64 : rope + (step * 64 - MLA_DECODE_DN);
#pragma unroll
          for (int i = 0; i < 2; i++)
            pairs[r][step][half + 2 * i] = is_there && step < WANTED ? load_pair(from + i * 8, T()) : 0;
        }
      }
  }
};

/* 8 bytes into shared memory, 16 bytes from there. */
__device__ inline void store_pair(unsigned to, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(to), "f"(first), "f"(second) : "memory");
}
__device__ inline float4 load_four(unsigned from) {
  float4 to;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(to.x), "=f"(to.y), "=f"(to.z), "=f"(to.w) : "r"(from) : "memory");
  return to;
}

/* Parts of products in shared memory, [DEPTH_GROUPS][ROWS][COLUMNS]. Groups of four columns change places with the row's
   number, so that neither the lanes of multiply_parts nor those of `sum` meet in a bank. */
template <int ROWS, int COLUMNS>
struct Parts {
  static_assert(COLUMNS == 16 || COLUMNS == 32, "the turns are made for these");
  static constexpr int BYTES = DEPTH_GROUPS * ROWS * COLUMNS * 4;

  unsigned start; /* address in shared memory */

  /* That of a column from here is this one ^ 4 · column while both are multiples of eight, or of four and this one is. */
  __device__ unsigned address(int group, int row, int column) const {
    int turn = COLUMNS == 32 ? (row << 1 & 6) | (row & 1) : row & 2;
    return start + (group * ROWS + row) * COLUMNS * 4 + ((column / 4) ^ turn) * 16 + column % 4 * 4;
  }
  /* Four products of a row. */
  __device__ float4 sum(int row, int column) const {
    const unsigned from = address(0, row, column);
    float4 all = load_four(from);
#pragma unroll
    for (int group = 1; group < DEPTH_GROUPS; group++) {
      const float4 part = load_four(from + group * ROWS * COLUMNS * 4);
      all.x += part.x, all.y += part.y, all.z += part.z, all.w += part.w;
    }
    return all;
  }
};

/* Left rows, which are rows [row, ..) of the parts, times the right rows [first, first + COUNT). */
template <int STEPS, int COUNT, typename T, int TILES, int LEFT_STEPS, int ROWS, int COLUMNS, int RIGHT, int WIDTH>
__device__ inline void multiply_parts(const Parts<ROWS, COLUMNS> &parts, const Left<T, TILES, LEFT_STEPS> &left, int row,
                                      const Tile<T, RIGHT, WIDTH> &right, int first, int depth_group) {
  const int lane = threadIdx.x % 32;
  const unsigned from = right.address(first + lane % 8 + lane / 16 * 8, depth_group * 2 + lane / 8 % 2);
  const unsigned to = parts.address(depth_group, row + lane / 4, first + lane % 4 * 2);
#pragma unroll
  for (int column = 0; column < COUNT; column += 16) {
    float products[TILES][2][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      unsigned pairs[4];
      load_matrices(pairs, from + column * WIDTH * 2 + step * 128);
#pragma unroll
      for (int r = 0; r < TILES; r++) {
        multiply(products[r][0], left.pairs[r][step], pairs[0], pairs[1], T());
        multiply(products[r][1], left.pairs[r][step], pairs[2], pairs[3], T());
      }
    }
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int c = 0; c < 2; c++)
#pragma unroll
        for (int half = 0; half < 2; half++)
          store_pair((to ^ (column + c * 8) * 4) + (r * 16 + half * 8) * COLUMNS * 4, products[r][c][half * 2],
                     products[r][c][half * 2 + 1]);
  }
}

/* sums += weights · right, of the weights' columns [first, first + DEPTH) and the right columns from `column` on, which is
   a multiple of 64 unless they are only eight. */
template <int DEPTH, typename T, int TILES, int GROUPS, int ROWS, int WEIGHTS, int RIGHT, int WIDTH>
__device__ inline void add_weighted(float (&sums)[TILES][GROUPS][4], const Tile<T, ROWS, WEIGHTS> &weights, int first,
                                    const Tile<T, RIGHT, WIDTH> &right, int column) {
  const int lane = threadIdx.x % 32;
  const unsigned from = right.address(lane % 16, column / CHUNK + (GROUPS == 1 ? 0 : lane / 16));
#pragma unroll
  for (int row = 0; row < DEPTH; row += 16) {
    unsigned left[TILES][4];
#pragma unroll
    for (int r = 0; r < TILES; r++) weights.load_left(left[r], r * 16, first + row);
#pragma unroll
    for (int c = 0; c < GROUPS; c += 2) {
      unsigned pairs[4];
      if (GROUPS == 1) load_two_matrices_transposed(pairs[0], pairs[1], from + row * WIDTH * 2);
      else load_matrices_transposed(pairs, (from ^ c * 16) + row * WIDTH * 2);
#pragma unroll
      for (int r = 0; r < TILES; r++) {
        multiply(sums[r][c], left[r], pairs[0], pairs[1], T());
        if (GROUPS > 1) multiply(sums[r][c + 1], left[r], pairs[2], pairs[3], T());
      }
    }
  }
}

/* sums *= factors[row]. */
template <int TILES, int GROUPS>
__device__ inline void scale_rows(float (&sums)[TILES][GROUPS][4], const float *factors) {
#pragma unroll
  for (int r = 0; r < TILES; r++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float factor = factors[r * 16 + half * 8 + threadIdx.x % 32 / 4];
#pragma unroll
      for (int c = 0; c < GROUPS; c++) sums[r][c][half * 2] *= factor, sums[r][c][half * 2 + 1] *= factor;
    }
}

template <typename T>
__device__ inline void store_four(T *to, float a, float b, float c, float d) {
  *reinterpret_cast<uint2 *>(to) = make_uint2(pack(a, b, T()), pack(c, d, T()));
}
__device__ inline void store_four(float *to, float a, float b, float c, float d) {
  *reinterpret_cast<float4 *>(to) = make_float4(a, b, c, d);
}

/* Writes sums at `row_at`(row), columns [0, 8 · GROUPS) there, for the rows below `rows`. Neighbouring lanes swap pairs of
   two groups of columns, so that each writes four neighbours. */
template <typename E, int TILES, int GROUPS, typename RowAt>
__device__ inline void store_rows(const float (&sums)[TILES][GROUPS][4], int rows, RowAt row_at) {
  const int lane = threadIdx.x % 32;
  const bool is_odd = lane % 2;
#pragma unroll
  for (int r = 0; r < TILES; r++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = r * 16 + half * 8 + lane / 4;
      E *to = row < rows ? row_at(row) + is_odd * 8 + lane % 4 / 2 * 4 : nullptr;
#pragma unroll
      for (int c = 0; c < GROUPS; c += 2) {
        const float(&first)[4] = sums[r][c], (&second)[4] = sums[r][c + 1];
        const float x = __shfl_xor_sync(~0u, is_odd ? first[half * 2] : second[half * 2], 1);
        const float y = __shfl_xor_sync(~0u, is_odd ? first[half * 2 + 1] : second[half * 2 + 1], 1);
        if (row >= rows) continue;
        if (is_odd) store_four(to + c * 8, x, y, second[half * 2], second[half * 2 + 1]);
        else store_four(to + c * 8, first[half * 2], first[half * 2 + 1], x, y);
      }
    }
}

/* As copy_rows, at once: floats on their way through registers. */
template <typename T, int ROWS, int COLUMNS, typename Rows>
__device__ inline void convert_rows(const Tile<T, ROWS, COLUMNS> &tile, const Rows &rows, int first, int lo, int hi) {
#pragma unroll 1
  for (int i = threadIdx.x; i < ROWS * COLUMNS / CHUNK; i += THREADS) {
    const int row = i / (COLUMNS / CHUNK), chunk = i % (COLUMNS / CHUNK), position = first + row;
    float4 low{}, high{};
    if (position >= lo && position < hi) {
      const float4 *from = reinterpret_cast<const float4 *>(rows.at(position, chunk * CHUNK));
      low = from[0], high = from[1];
    }
    store_chunk(tile.address(row, chunk), pack(low.x, low.y, T()), pack(low.z, low.w, T()), pack(high.x, high.y, T()),
                pack(high.z, high.w, T()));
  }
}
