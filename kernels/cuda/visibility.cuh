/* Who sees whom on a GPU: kernels/tensorflow/cpu/visibility.h, but that ranges may also be empty with hi below lo. So lo and
   hi never decrease from one row, or key, below its length to the next, and those of the first and the last row of a tile
   bound what the tile sees. */
#ifndef MLA_VISIBILITY_CUH
#define MLA_VISIBILITY_CUH

#include "mla_params.h"

/* [lo, hi), empty if hi <= lo. */
struct Range {
  int lo, hi;
};

static __device__ __forceinline__ int length_of(const int32_t *lengths, int batch, int size) {
  return lengths ? min(max(lengths[batch], 0), size) : size;
}

/* The keys that row i sees. */
static __device__ __forceinline__ Range visible_keys(const MlaParams &p, int i, int q_length, int kv_length) {
  int diagonal = p.is_top_left ? i : i + kv_length - q_length;
  if (i >= q_length) return {0, 0};
  return {max(0, diagonal - p.left), min(kv_length, diagonal + p.right + 1)};
}

/* The rows that see key j. */
static __device__ __forceinline__ Range seeing_rows(const MlaParams &p, int j, int q_length, int kv_length) {
  int diagonal = p.is_top_left ? j : j - kv_length + q_length;
  if (j >= kv_length) return {0, 0};
  return {max(0, diagonal - p.right), min(q_length, diagonal + p.left + 1)};
}

#endif
