/* Split halves come multiplied by powers of two, one for MLA_SPLIT_ROWS rows of a head. What undoes them is at partial_lse:
   [batch · heads, chunks of rows] of q, k, v and d_out. Other operands have factors of 1. */
#pragma once

#include "../plan.h"
#include "mma.cuh"
#include "split.h"

template <typename T, int WALKED>
constexpr bool is_in_a_chunk = !is_split<T> || MLA_SPLIT_ROWS % WALKED == 0;

__device__ inline int chunks_of(int positions) { return (positions + MLA_SPLIT_ROWS - 1) / MLA_SPLIT_ROWS; }

/* Of all that come before those of an operand. */
__device__ inline int64_t first_factor(const MlaParams &p, MlaSplit operand) {
  const int64_t queries = (int64_t)p.batch * p.hq * chunks_of(p.sq), keys = (int64_t)p.batch * p.hkv * chunks_of(p.skv);
  return operand == MLA_SPLIT_Q ? 0 : queries + (operand - MLA_SPLIT_K) * keys;
}

/* Of the rows of one head. */
template <typename T>
__device__ inline float factor_of(const MlaArguments &a, MlaSplit operand, int batch, int head, int position) {
  if constexpr (!is_split<T>) return 1;
  const bool is_key = operand == MLA_SPLIT_K || operand == MLA_SPLIT_V;
  const int positions = is_key ? a.params.skv : a.params.sq, heads = is_key ? a.params.hkv : a.params.hq;
  const int64_t row = ((int64_t)batch * heads + head) * chunks_of(positions) + min(position, positions - 1) / MLA_SPLIT_ROWS;
  return a.partial_lse[first_factor(a.params, operand) + row];
}
