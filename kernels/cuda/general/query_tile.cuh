/* What the forward and Dq share: a block owns some rows of queries and walks over the keys that they see, or over a
   share (`split`) of them. The rows are those of all query heads that read a key head: position by position, and at
   each through the heads. */
#ifndef MLA_GENERAL_QUERY_TILE_CUH
#define MLA_GENERAL_QUERY_TILE_CUH

#include "../plan.h"
#include "../visibility.cuh"
#include "products.cuh"

struct QueryTile {
  int batch, kv_head, group;
  int q_length, kv_length;
  int first_row, rows; /* `rows` of all tiles */
  int split, first_column;
  int first_key, end_key;
  Range seen_by_all; /* keys; empty if there are rows that see none */

  __device__ __forceinline__ bool exists(int row) const { return first_row + row < rows; }
  __device__ __forceinline__ int position(int row) const { return (first_row + row) / group; }
  __device__ __forceinline__ int head(int row) const { return kv_head * group + (first_row + row) % group; }
  __device__ __forceinline__ bool is_masked(int key) const {
    return key < seen_by_all.lo || key + WALK > seen_by_all.hi;
  }
  __device__ __forceinline__ Range keys_of(const MlaParams &p, int row) const {
    return exists(row) ? Visibility(p, q_length, kv_length).keys_of(position(row)) : Range{0, 0};
  }
  /* Where the numbers of a row stand in [batch, hq, sq]. */
  __device__ __forceinline__ int64_t stat(const MlaParams &p, int row) const {
    return ((int64_t)batch * p.hq + head(row)) * p.sq + position(row);
  }
};

/* The last rows, which see most under a causal mask, come first; the splits of a tile, and its parts of `columns` of
   the result's columns, stand side by side. */
template <int ROWS>
static __device__ __forceinline__ QueryTile query_tile(const MlaArguments &a, int result_columns, int columns) {
  const MlaParams &p = a.params;
  QueryTile t;
  int unit = blockIdx.x, parts = (result_columns + columns - 1) / columns, pairs = p.batch * p.hkv;
  t.split = unit % a.splits;
  unit /= a.splits;
  t.first_column = unit % parts * columns;
  unit /= parts;
  t.batch = unit % pairs / p.hkv;
  t.kv_head = unit % p.hkv;
  t.group = p.hq / p.hkv;
  t.rows = p.sq * t.group;
  t.first_row = ((t.rows + ROWS - 1) / ROWS - 1 - unit / pairs) * ROWS;
  t.q_length = clamp_length(p.q_lengths, t.batch, p.sq);
  t.kv_length = clamp_length(p.kv_lengths, t.batch, p.skv);

  int last_row = min(t.first_row + ROWS, t.q_length * t.group) - 1;
  Range first = t.keys_of(p, 0), last = t.keys_of(p, max(last_row - t.first_row, 0));
  t.seen_by_all = {last.lo, last_row == t.first_row + ROWS - 1 ? first.hi : 0};
  int tiles = last_row < t.first_row || last.hi <= first.lo ? 0 : (last.hi - first.lo + WALK - 1) / WALK;
  t.first_key = first.lo + (int)((int64_t)tiles * t.split / a.splits) * WALK;
  t.end_key = min(last.hi, first.lo + (int)((int64_t)tiles * (t.split + 1) / a.splits) * WALK);
  return t;
}

#endif
