/* Who sees whom on a GPU: ../tensorflow/cpu/visibility.h, but that ranges may also be empty with hi below lo. So lo and hi
   never decrease from one row, or key, below its length to the next, and those of the first and the last row of a tile
   bound what the tile sees. */
#pragma once

#include "mla_params.h"

/* [lo, hi), empty if hi <= lo. */
struct Range {
  int lo, hi;
};
__device__ inline Range everything() { return {0, 0x7fffffff}; }

__device__ inline int clamp_length(const int32_t *lengths, int batch, int size) {
  return lengths ? min(max(lengths[batch], 0), size) : size;
}

/* The mask of one batch entry. */
struct Visibility {
  int q_length, kv_length, offset, left, right;

  __device__ Visibility(const MlaParams &p, int q_length, int kv_length)
      : q_length(q_length),
        kv_length(kv_length),
        offset(p.is_top_left ? 0 : kv_length - q_length),
        left(p.left),
        right(p.right) {}
  __device__ Visibility(const MlaParams &p, int batch)
      : Visibility(p, clamp_length(p.q_lengths, batch, p.sq), clamp_length(p.kv_lengths, batch, p.skv)) {}

  /* The keys that query i sees. */
  __device__ Range keys_of(int i) const {
    if (i >= q_length) return {0, 0};
    return {max(0, i + offset - left), min(kv_length, i + offset + right + 1)};
  }
  /* The queries that see key j. */
  __device__ Range queries_of(int j) const {
    if (j >= kv_length) return {0, 0};
    return {max(0, j - offset - right), min(q_length, j - offset + left + 1)};
  }
  /* What any of the queries [first, first + count) sees. */
  __device__ Range keys_of_any(int first, int count) const {
    int last = min(first + count, q_length) - 1;
    if (last < first) return {0, 0};
    return {keys_of(first).lo, keys_of(last).hi};
  }
  /* Who sees any of the keys [first, first + count). */
  __device__ Range queries_of_any(int first, int count) const {
    int last = min(first + count, kv_length) - 1;
    if (last < first) return {0, 0};
    return {queries_of(first).lo, queries_of(last).hi};
  }
  /* Whether each of `queries` queries sees each of `keys` keys. */
  __device__ bool is_whole(int query, int queries, int key, int keys) const {
    return query + queries <= q_length && key >= keys_of(query + queries - 1).lo && key + keys <= keys_of(query).hi;
  }
};
