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

  __device__ typename HeadRows<E>::Row operator[](int row) const {
    typename HeadRows<E>::Row at = first_head[row / heads];
    at.nope += row % heads * nope_head;
    at.rope += row % heads * rope_head;
    return at;
  }
  /* Where a result goes. */
  __device__ E *at(int row, int column) const { return const_cast<E *>((*this)[row].at(column)); }
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

/* Eight neighbours as a chunk of shared memory, 0 and no access unless is_there: begun, or of floats done and multiplied. */
template <typename T>
__device__ inline void copy_chunk(unsigned to, const T *from, bool is_there, float = 1) {
  copy_async(to, from, is_there);
}
template <typename T>
__device__ inline void copy_chunk(unsigned to, const float *from, bool is_there, float by = 1) {
  float4 low{}, high{};
  if (is_there) low = reinterpret_cast<const float4 *>(from)[0], high = reinterpret_cast<const float4 *>(from)[1];
  store_chunk(to, pack(low.x * by, low.y * by, T()), pack(low.z * by, low.w * by, T()), pack(high.x * by, high.y * by, T()),
              pack(high.z * by, high.w * by, T()));
}

/* Copies the rows [first, first + ROWS), 0 from `end` on: eight threads a row. Floats are converted at once, on their way
   through registers, and multiplied by `by`. */
template <typename T, int ROWS, int COLUMNS, typename Rows>
__device__ inline void stage_rows(const Tile<T, ROWS, COLUMNS> &tile, const Rows &rows, int first, int end, float by = 1) {
  const int c = threadIdx.x % 8;
  for (int row = threadIdx.x / 8; row < ROWS; row += THREADS / 8) {
    const bool is_there = first + row < end;
    const int at = is_there ? first + row : 0;
    const unsigned to = tile.address(row, c);
    const auto from = rows[at];
    const auto *latent = from.at(0) + c * CHUNK, *rope = from.at(MLA_DECODE_DN) + c * CHUNK;
    asm("" : "+l"(latent)); /* one address and constants from it, not one address for each chunk */
#pragma unroll(sizeof(*latent) == 4 ? 1 : COLUMNS / 64)
    for (int i = 0; i < COLUMNS / 64; i++)
      copy_chunk<T>(to + i * 128, i * 64 < MLA_DECODE_DN ? latent + i * 64 : rope + (i * 64 - MLA_DECODE_DN), is_there, by);
  }
}

/* 16 · TILES left rows in the registers of a warp, of each 64 of their first 64 · STEPS columns the sixteen of its depth
   group: so the places of right columns in shared memory differ by constants. */
template <typename T, int TILES, int STEPS>
struct Left {
  unsigned pairs[TILES][STEPS][4];

  template <int ROWS, int COLUMNS>
  __device__ void load(const Tile<T, ROWS, COLUMNS> &tile, int row, int depth_group) {
    const unsigned from = tile.address(row + threadIdx.x % 16, depth_group * 2 + threadIdx.x % 32 / 16);
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int step = 0; step < STEPS; step++) {
        if (step < COLUMNS / 64) load_matrices(pairs[r][step], from + r * 16 * COLUMNS * 2 + step * 128);
        else for (unsigned &pair : pairs[r][step]) pair = 0;
      }
  }
};

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
  /* the pairs of a step come while those of the step before are multiplied */
  unsigned pairs[2][4];
  load_matrices(pairs[0], from);
#pragma unroll
  for (int column = 0; column < COUNT; column += 16) {
    float products[TILES][2][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      const int now = (column / 16 * STEPS + step) % 2;
      const int next = step + 1 < STEPS ? column * WIDTH * 2 + (step + 1) * 128 : (column + 16) * WIDTH * 2;
      if (step + 1 < STEPS || column + 16 < COUNT) load_matrices(pairs[1 - now], from + next);
#pragma unroll
      for (int r = 0; r < TILES; r++) {
        multiply(products[r][0], left.pairs[r][step], pairs[now][0], pairs[now][1], T());
        multiply(products[r][1], left.pairs[r][step], pairs[now][2], pairs[now][3], T());
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
  auto load = [&](unsigned (&pairs)[4], int row, int c) {
    if (GROUPS == 1) load_two_matrices_transposed(pairs[0], pairs[1], from + row * WIDTH * 2);
    else load_matrices_transposed(pairs, (from ^ c * 16) + row * WIDTH * 2);
  };
  /* the pairs of a step come while those of the step before are multiplied */
  unsigned pairs[2][4];
  load(pairs[0], 0, 0);
#pragma unroll
  for (int row = 0; row < DEPTH; row += 16) {
    unsigned left[TILES][4];
#pragma unroll
    for (int r = 0; r < TILES; r++) weights.load_left(left[r], r * 16, first + row);
#pragma unroll
    for (int c = 0; c < GROUPS; c += 2) {
      const int now = (row / 16 * ((GROUPS + 1) / 2) + c / 2) % 2;
      if (c + 2 < GROUPS) load(pairs[1 - now], row, c + 2);
      else if (row + 16 < DEPTH) load(pairs[1 - now], row + 16, 0);
#pragma unroll
      for (int r = 0; r < TILES; r++) {
        multiply(sums[r][c], left[r], pairs[now][0], pairs[now][1], T());
        if (GROUPS > 1) multiply(sums[r][c + 1], left[r], pairs[now][2], pairs[now][3], T());
      }
    }
  }
}

/* sums *= factors[row], which are in shared memory. */
template <int TILES, int GROUPS>
__device__ inline void scale_rows(float (&sums)[TILES][GROUPS][4], unsigned factors) {
#pragma unroll
  for (int r = 0; r < TILES; r++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float factor = __uint_as_float(load_shared(factors + (r * 16 + half * 8 + threadIdx.x % 32 / 4) * 4));
#pragma unroll
      for (int c = 0; c < GROUPS; c++) sums[r][c][half * 2] *= factor, sums[r][c][half * 2 + 1] *= factor;
    }
}

/* Writes sums at row_at(row), columns [0, 8 · GROUPS) there, for the rows below `rows`. */
template <typename E, int TILES, int GROUPS, typename RowAt>
__device__ inline void store_rows(const float (&sums)[TILES][GROUPS][4], int rows, RowAt row_at) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < TILES; r++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int row = r * 16 + half * 8 + lane / 4;
      E *to = row_at(row < rows ? row : 0);
#pragma unroll
      for (int c = 0; c < GROUPS; c += 2) {
        const float(&first)[4] = sums[r][c], (&second)[4] = sums[r][GROUPS == 1 ? 0 : c + 1];
        if constexpr (sizeof(E) == 4) {
          if (row >= rows) continue;
          float2 *pair = reinterpret_cast<float2 *>(to + c * 8 + lane % 4 * 2);
          pair[0] = make_float2(first[half * 2], first[half * 2 + 1]);
          if (GROUPS > 1) pair[4] = make_float2(second[half * 2], second[half * 2 + 1]);
        } else {
          /* lanes swap pairs of two groups of columns with their neighbours, so that each writes four of one */
          const unsigned pairs[2] = {pack(first[half * 2], first[half * 2 + 1], E()),
                                     pack(second[half * 2], second[half * 2 + 1], E())};
          const unsigned other = __shfl_xor_sync(~0u, lane % 2 ? pairs[0] : pairs[1], 1);
          if (row >= rows || (GROUPS == 1 && lane % 2)) continue;
          *reinterpret_cast<uint2 *>(to + c * 8 + lane % 2 * 8 + lane % 4 / 2 * 4) =
              lane % 2 ? make_uint2(other, pairs[1]) : make_uint2(pairs[0], other);
        }
      }
    }
}
