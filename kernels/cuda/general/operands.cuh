/* The operands of products: rows in memory, of any type, that become float32 in shared memory. Rows and columns that
   do not exist, or lie past a length, become zeros and are not read.

   IS_FAST says that all tensors are float32, that dn, dr and dv are whole chunks, and that starts and strides allow 16
   bytes at once (is_fast of plan.c). */
#ifndef MLA_GENERAL_OPERANDS_CUH
#define MLA_GENERAL_OPERANDS_CUH

#include "numbers.cuh"
#include "tiles.h"

constexpr int THREADS = MLA_GENERAL_THREADS, WALK = MLA_GENERAL_WALK;
constexpr int CHUNK = MLA_GENERAL_CHUNK;

/* The rows of one head, or those of the `group` query heads that share a key head: position by position, and at each
   through the heads. The columns are [nope | rope], of two tensors. */
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
  int64_t nope_start = batch * nope.batch + head * nope.head;
  int64_t rope_start = dr ? batch * rope.batch + head * rope.head : 0;
  uint32_t reciprocal = group > 1 ? 0xffffffffu / group + 1 : 0;
  bool are_aligned = is_aligned(nope, type, dn) && (dr == 0 || is_aligned(rope, type, dr));
  return {nope, rope, nope_start, rope_start, dn, dn + dr, group, rows, reciprocal, type, are_aligned};
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
  if constexpr (COUNT == 4)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
  else asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(bytes));
}

static __device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

/* COUNT columns of a row, all of the same tensor, become floats `step` apart. */
template <int COUNT>
static __device__ __forceinline__ void stage_columns(float *to, int step, const Operand &o, int row, int column) {
  int position = o.position(row), head = row - position * o.group;
  bool is_rope = column >= o.dn, exists = row < o.rows && column < o.depth;
  int64_t at = is_rope ? o.rope_start + position * o.rope.position + head * o.rope.head + column - o.dn
                       : o.nope_start + position * o.nope.position + head * o.nope.head + column;
  const void *start = is_rope ? o.rope.start : o.nope.start;
  if (!exists) start = o.nope.start, at = 0;
  float values[COUNT] = {};
  if (o.type == MLA_FLOAT32) {
#pragma unroll
    for (int e = 0; e < COUNT; e++) copy_floats<1>(to + e * step, (const float *)start + at + (exists ? e : 0), exists);
  } else {
    if (exists) read_elements(values, start, o.type, at);
#pragma unroll
    for (int e = 0; e < COUNT; e++) to[e * step] = values[e];
  }
}

/* COLUMNS columns of ROWS rows of any operand, COUNT columns at a time. */
template <int ROWS, int COLUMNS, int COUNT>
static __device__ __forceinline__ void stage_any(float *to, int row_step, int column_step, const Operand &o,
                                                 int first_row, int first_column) {
#pragma unroll 2
  for (int n = threadIdx.x; n < ROWS * COLUMNS / COUNT; n += THREADS) {
    int row = n / (COLUMNS / COUNT), column = n % (COLUMNS / COUNT) * COUNT;
    float *at = to + row * row_step + column * column_step;
    stage_columns<COUNT>(at, column_step, o, first_row + row, first_column + column);
  }
}

/* Where a row of a fast operand has its columns from `column` on, which are those of one chunk: strides fit an int. */
static __device__ __forceinline__ const float *fast_row(const Operand &o, int row, int column) {
  bool is_rope = column >= o.dn;
  const float *start = is_rope ? (const float *)o.rope.start + o.rope_start - o.dn
                               : (const float *)o.nope.start + o.nope_start;
  int position = o.position(row);
  start += (int64_t)position * (int)(is_rope ? o.rope.position : o.nope.position);
  if (o.group > 1) start += (int64_t)(row - position * o.group) * (int)(is_rope ? o.rope.head : o.nope.head);
  return start + column;
}

/* to[CHUNK][ROWS] = CHUNK columns of ROWS rows, transposed. */
template <bool IS_FAST, int ROWS>
static __device__ __forceinline__ void stage_chunk(float *to, const Operand &o, int first_row, int first_column) {
  constexpr int STRIDE = MLA_GENERAL_CHUNK_STRIDE(ROWS);
  if constexpr (IS_FAST) { /* a warp takes 8 columns of 4 rows: whole sectors of 32 bytes, to 32 banks */
    int column = threadIdx.x % 8, row = threadIdx.x / 8;
    const float *first = fast_row(o, first_row + row, first_column) + column;
    int stride = (int)(first_column >= o.dn ? o.rope.position : o.nope.position);
    to += column * STRIDE + row;
#pragma unroll
    for (int n = 0; n < ROWS; n += THREADS / 8) {
      const float *from = o.group == 1 ? first + (int64_t)n * stride
                                       : fast_row(o, first_row + row + n, first_column) + column;
      bool exists = first_row + row + n < o.rows;
#pragma unroll
      for (int c = 0; c < CHUNK; c += 8) copy_floats<1>(to + c * STRIDE + n, from + c, exists);
    }
  } else if (o.is_aligned) {
    stage_any<ROWS, CHUNK, 4>(to, 1, STRIDE, o, first_row, first_column);
  } else {
    stage_any<ROWS, CHUNK, 1>(to, 1, STRIDE, o, first_row, first_column);
  }
}

/* to[ROWS][COLUMNS] = COLUMNS columns of ROWS rows. */
template <bool IS_FAST, int ROWS, int COLUMNS>
static __device__ __forceinline__ void stage_rows(float *to, const Operand &o, int first_row, int first_column) {
  if constexpr (IS_FAST) { /* eight threads take a chunk of a row */
    constexpr int SIDE_BY_SIDE = THREADS / 8 / ROWS;
    static_assert(COLUMNS % (SIDE_BY_SIDE * CHUNK) == 0, "whole chunks for all threads");
    int row = threadIdx.x / 8 % ROWS, column = threadIdx.x / 8 / ROWS * CHUNK, four = threadIdx.x % 8 * 4;
    const float *nope = fast_row(o, first_row + row, 0) + four, *rope = nope;
    if (o.depth > o.dn) rope = fast_row(o, first_row + row, o.dn) + four - o.dn;
    to += row * COLUMNS + column + four;
    column += first_column;
#pragma unroll
    for (int c = 0; c < COLUMNS; c += SIDE_BY_SIDE * CHUNK) {
      const float *from = (column + c < o.dn ? nope : rope) + column + c;
      copy_floats<4>(to + c, from, first_row + row < o.rows && column + c < o.depth);
    }
  } else if (o.is_aligned) {
    stage_any<ROWS, COLUMNS, 4>(to, COLUMNS, 1, o, first_row, first_column);
  } else {
    stage_any<ROWS, COLUMNS, 1>(to, COLUMNS, 1, o, first_row, first_column);
  }
}

#endif
