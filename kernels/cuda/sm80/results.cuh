/* Rows of sums, as mma.cuh lays them out, on their way into memory. */
#pragma once

#include "../mla_params.h"
#include "mma.cuh"

/* A row of floats or, in any other type, of 16-bit numbers; the columns from dn on are a row of their own. */
struct ResultRow {
  void *nope;
  MlaType nope_type;
  void *rope;
  MlaType rope_type;
  int dn;
};

/* Two neighbours of a row of floats or, in any other type, of T, which split halves are not. */
template <typename T>
__device__ inline void store_pair(void *row, MlaType type, int column, float first, float second) {
  if constexpr (!is_split<T>)
    if (type != MLA_FLOAT32) {
      *reinterpret_cast<unsigned *>(static_cast<T *>(row) + column) = pack(first, second, T());
      return;
    }
  *reinterpret_cast<float2 *>(static_cast<float *>(row) + column) = make_float2(first, second);
}

/* Row lane/4 + 8 · half of factor · sums, of right sides T: two groups, which are the columns [column, column + 16). */
template <typename T>
__device__ inline void store_sixteen(const ResultRow &row, int column, const float (&first)[4], const float (&second)[4],
                                     int half, float factor) {
  const int i = half * 2, lane_column = threadIdx.x % 4;
  if constexpr (is_tf32<T>) { /* a lane has neighbours: see DeepBlocks */
    const int at = column + lane_column * 4;
    float *to = static_cast<float *>(at < row.dn ? row.nope : row.rope) + (at < row.dn ? at : at - row.dn);
    *reinterpret_cast<float4 *>(to) =
        make_float4(first[i] * factor, second[i] * factor, first[i + 1] * factor, second[i + 1] * factor);
  } else {
#pragma unroll
    for (int group = 0; group < 2; group++) {
      const float(&sums)[4] = group ? second : first;
      const int start = column + group * 8, at = start + lane_column * 2;
      if (start < row.dn)
        store_pair<T>(row.nope, row.nope_type, at, sums[i] * factor, sums[i + 1] * factor);
      else
        store_pair<T>(row.rope, row.rope_type, at - row.dn, sums[i] * factor, sums[i + 1] * factor);
    }
  }
}
