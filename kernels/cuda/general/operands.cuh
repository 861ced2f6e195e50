/* The operands of products: rows in memory, of any type, that become float32 in shared memory. Rows and columns that do not
   exist, or lie past a length, become zeros and are not read.

   IS_FAST says that tensors are float32, that dn, dr and dv are whole chunks, and that starts and strides allow 16 bytes
   at once (is_fast of plan.c). */
#ifndef MLA_GENERAL_OPERANDS_CUH
#define MLA_GENERAL_OPERANDS_CUH

#include "numbers.cuh"
#include "tiles.h"

constexpr int THREADS = MLA_GENERAL_THREADS, WALK = MLA_GENERAL_WALK;
constexpr int CHUNK = MLA_GENERAL_CHUNK, CHUNK_STRIDE = MLA_GENERAL_CHUNK_STRIDE;

/* The rows of one head, or those of the `group` query heads that share a key head: position by position, and at each through
   the heads. The columns are [nope | rope], of two tensors. */
struct Operand {
  const MlaRows &nope, &rope;
  int64_t nope_start, rope_start; /* of the batch entry and the first head */
  int dn, depth;
  int group, rows;
  uint32_t reciprocal; /* of the group, times 2^32, rounded up */
  MlaType type;
  bool is_aligned;

  __device__ __forceinline__ int position(int row) const {
    if (group == 1) return row;
    int quotient = __umulhi(row, reciprocal); /* or one more */
    return quotient * group > row ? quotient - 1 : quotient;
  }
};

static __device__ __forceinline__ Operand operand(const MlaRows &nope, int dn, const MlaRows &rope, int dr, int batch,
                                                  int head, int group, int rows, MlaType type) {
  return {nope, rope, batch * nope.batch + head * nope.head, dr ? batch * rope.batch + head * rope.head : 0, dn, dn + dr,
          group, rows, group > 1 ? (uint32_t)(0xffffffffu / group + 1) : 0, type, is_aligned(nope, type, dn) && (dr == 0 || is_aligned(rope, type, dr))};
}

static __device__ __forceinline__ Operand query_operand(const MlaParams &p, int batch, int kv_head, int q_length) {
  int group = p.hq / p.hkv;
  return operand(p.q, p.dn, p.q_rope, p.dr, batch, kv_head * group, group, q_length * group, p.type);
}
static __device__ __forceinline__ Operand d_out_operand(const MlaParams &p, int batch, int kv_head, int q_length) {
  int group = p.hq / p.hkv;
  return operand(p.d_out, p.dv, p.d_out, 0, batch, kv_head * group, group, q_length * group, p.type);
}
static __device__ __forceinline__ Operand key_operand(const MlaParams &p, int batch, int kv_head, int kv_length) {
  return operand(p.k, p.dn, p.k_rope, p.dr, batch, kv_head, 1, kv_length, p.type);
}
static __device__ __forceinline__ Operand value_operand(const MlaParams &p, int batch, int kv_head, int kv_length) {
  return operand(p.v, p.dv, p.v, 0, batch, kv_head, 1, kv_length, p.type);
}

/* Copies 4 · COUNT bytes behind the thread's back, or writes zeros. */
template <int COUNT>
static __device__ __forceinline__ void copy_floats(float *to, const float *from, bool exists) {
  uint32_t at = (uint32_t)__cvta_generic_to_shared(to);
  int bytes = exists ? 4 * COUNT : 0;
  if constexpr (COUNT == 4) asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
  else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(bytes));
}

static __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/* COUNT columns of a row, all of the same tensor. */
template <int COUNT>
static __device__ __forceinline__ void stage_columns(float *to, const Operand &o, int row, int column) {
  int position = o.position(row), head = row - position * o.group;
  bool is_rope = column >= o.dn, exists = row < o.rows && column < o.depth;
  int64_t at = is_rope ? o.rope_start + position * o.rope.position + head * o.rope.head + column - o.dn
                       : o.nope_start + position * o.nope.position + head * o.nope.head + column;
  const void *start = is_rope ? o.rope.start : o.nope.start;
  if (!exists) start = o.nope.start, at = 0;
  if (o.type == MLA_FLOAT32) {
    copy_floats<COUNT>(to, (const float *)start + at, exists);
  } else {
    float values[COUNT] = {};
    if (exists) read_elements(values, start, o.type, at);
#pragma unroll
    for (int e = 0; e < COUNT; e++) to[e] = values[e];
  }
}

/* Four columns of a row. The tensor's start and strides are the same for a whole chunk of columns, and strides fit an int. */
template <bool IS_CHUNK>
static __device__ __forceinline__ void stage_fast(float *to, const Operand &o, int row, int first_column, int column) {
  bool is_rope = (IS_CHUNK ? first_column : first_column + column) >= o.dn;
  const float *start = is_rope ? (const float *)o.rope.start + o.rope_start - o.dn
                               : (const float *)o.nope.start + o.nope_start;
  int position = o.position(row);
  start += (int64_t)position * (int)(is_rope ? o.rope.position : o.nope.position);
  if (o.group > 1) start += (int64_t)(row - position * o.group) * (int)(is_rope ? o.rope.head : o.nope.head);
  bool exists = row < o.rows && (IS_CHUNK || first_column + column < o.depth);
  copy_floats<4>(to, start + first_column + column, exists);
}

/* to[ROWS][STRIDE] = COLUMNS columns of ROWS rows. */
template <bool IS_FAST, int ROWS, int COLUMNS, int STRIDE>
static __device__ __forceinline__ void stage_rows(float *to, const Operand &o, int first_row, int first_column) {
  constexpr int FOURS = COLUMNS / 4, COUNT = ROWS * FOURS;
  if constexpr (IS_FAST) {
#pragma unroll
    for (int n = 0; n < COUNT; n += THREADS) {
      int four = n + threadIdx.x, row = four / FOURS, column = four % FOURS * 4;
      if (COUNT % THREADS == 0 || four < COUNT)
        stage_fast<COLUMNS == CHUNK>(to + row * STRIDE + column, o, first_row + row, first_column, column);
    }
  } else if (o.is_aligned) {
#pragma unroll 2
    for (int four = threadIdx.x; four < COUNT; four += THREADS) {
      int row = four / FOURS, column = four % FOURS * 4;
      stage_columns<4>(to + row * STRIDE + column, o, first_row + row, first_column + column);
    }
  } else {
#pragma unroll 2
    for (int n = threadIdx.x; n < ROWS * COLUMNS; n += THREADS) {
      int row = n / COLUMNS, column = n % COLUMNS;
      stage_columns<1>(to + row * STRIDE + column, o, first_row + row, first_column + column);
    }
  }
}

#endif
