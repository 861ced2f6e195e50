/* Sums in registers become rows in memory. */
#ifndef MLA_GENERAL_RESULTS_CUH
#define MLA_GENERAL_RESULTS_CUH

#include "products.cuh"

/* Where columns [first, end) of a row of sums go: to the elements from `at` on. */
struct Target {
  void *start;
  MlaType type;
  bool is_aligned;
  int64_t at;
  int first, end;
};

static __device__ __forceinline__ Target target(const MlaRows &rows, MlaType type, int batch, int position, int head,
                                                int first, int columns) {
  return {rows.start, type, is_aligned(rows, type, columns | first),
          batch * rows.batch + position * rows.position + head * rows.head, first, first + columns};
}

/* Rows of floats without gaps: that of index `row` has `columns` of them. */
static __device__ __forceinline__ Target float_target(float *start, int64_t row, int first, int columns) {
  return {start, MLA_FLOAT32, (columns | first) % 4 == 0, row * columns, first, first + columns};
}

/* The thread's columns of a row of sums, of which the block has those from `first_column` on. */
template <class C>
static __device__ __forceinline__ void write_sums(const Target &to, const float (&sums)[C::COUNT], int first_column,
                                                  float factor) {
#pragma unroll
  for (int c = 0; c < C::COUNT; c += C::VECTOR) {
    int column = first_column + C::column(c);
    if (to.type == MLA_FLOAT32 && to.is_aligned) {
      if (column < to.first || column >= to.end) continue;
      float *at = (float *)to.start + to.at + column - to.first;
      if constexpr (C::VECTOR == 4)
        *(float4 *)at = {factor * sums[c], factor * sums[c + 1], factor * sums[c + 2], factor * sums[c + 3]};
      else *(float2 *)at = {factor * sums[c], factor * sums[c + 1]};
    } else {
#pragma unroll
      for (int e = 0; e < C::VECTOR; e++)
        if (column + e >= to.first && column + e < to.end)
          write_element(to.start, to.type, to.at + column + e - to.first, factor * sums[c + e]);
    }
  }
}

#endif
