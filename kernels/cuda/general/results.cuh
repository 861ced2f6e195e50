/* Sums in registers become rows in memory. */
#ifndef MLA_GENERAL_RESULTS_CUH
#define MLA_GENERAL_RESULTS_CUH

#include "products.cuh"

/* Where columns [first, end) of a row of sums go: to the elements from `at` on. */
struct Target {
  void *start;
  MlaType type;
  int64_t at;
  int first, end;
};

static __device__ __forceinline__ Target target(const MlaRows &rows, MlaType type, int batch, int position, int head,
                                                int first, int columns) {
  return {rows.start, type, batch * rows.batch + position * rows.position + head * rows.head, first, first + columns};
}

/* Rows of floats without gaps: that of index `row` has `columns` of them. */
static __device__ __forceinline__ Target float_target(float *start, int64_t row, int first, int columns) {
  return {start, MLA_FLOAT32, row * columns, first, first + columns};
}

/* N columns of a row, side by side. */
template <bool IS_FAST, int N>
static __device__ __forceinline__ void write_columns(const Target &to, const float *sums, int column, float factor) {
  if constexpr (IS_FAST) {
    if (column < to.first || column >= to.end) return;
    float *at = (float *)to.start + to.at + column - to.first;
    if constexpr (N == 4) *(float4 *)at = {factor * sums[0], factor * sums[1], factor * sums[2], factor * sums[3]};
    else *(float2 *)at = {factor * sums[0], factor * sums[1]};
  } else {
#pragma unroll
    for (int e = 0; e < N; e++)
      if (column + e >= to.first && column + e < to.end)
        write_element(to.start, to.type, to.at + column + e - to.first, factor * sums[e]);
  }
}

/* The thread's columns of a row of sums, of which the block has those from `first_column` on. */
template <class C, bool IS_FAST>
static __device__ __forceinline__ void write_sums(const Target &to, const float (&sums)[C::COUNT], int lane,
                                                  int first_column, float factor) {
#pragma unroll
  for (int c = 0; c < C::IN_FOURS; c += 4)
    write_columns<IS_FAST, 4>(to, sums + c, first_column + C::index(lane, c), factor);
  if constexpr (C::COUNT > C::IN_FOURS)
    write_columns<IS_FAST, 2>(to, sums + C::IN_FOURS, first_column + C::index(lane, C::IN_FOURS), factor);
}

#endif
