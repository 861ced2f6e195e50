/* Products of a warpgroup on sm_90 (PTX ISA: wgmma), of 16-bit numbers with sums in float32.

   Tiles in shared memory are panels of 64 columns (128 bytes a row), as TMA writes them with a swizzle of 128 bytes, each
   panel aligned to 1024 bytes.

   The sums of a product of 64 x N, thread by thread, with warp = warp of the warpgroup, r = lane / 4 and c = lane % 4:
   sums[4n + 2i + j] is at row 16 warp + r + 8i, column 8n + 2c + j. */
#pragma once

#include <stdint.h>

#include "../halves.cuh"

constexpr int PANEL = 64; /* columns */

/* Where a matrix lies: bits 0-13 address, 16-29 and 32-45 byte strides, all in units of 16 bytes, 62-63 swizzle.
   A product takes 16 of its depth from there. */
constexpr uint64_t SWIZZLE_128 = 1ull << 62;
constexpr uint64_t EIGHT_ROWS = 1024 / 16;

/* Rows are the product's rows (or columns, on the right), columns its depth; other panels are other matrices. */
__device__ inline uint64_t matrix_by_rows(unsigned address) {
  return SWIZZLE_128 | EIGHT_ROWS << 32 | 1ull << 16 | (address & 0x3ffff) >> 4;
}
/* Rows are the depth; panels follow one another after panel_bytes. */
__device__ inline uint64_t matrix_by_columns(unsigned address, unsigned panel_bytes) {
  return SWIZZLE_128 | EIGHT_ROWS << 32 | static_cast<uint64_t>(panel_bytes >> 4) << 16 | (address & 0x3ffff) >> 4;
}
/* The matrix that lies so many bytes further on. */
__device__ inline uint64_t further(uint64_t matrix, unsigned bytes) { return matrix + (bytes >> 4); }

/* Before the first product after registers were written that it reads or adds to. */
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
/* The products so far are one group. */
__device__ inline void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

/* Keeps the compiler from moving accesses to sums over this point. */
template <int COUNT>
__device__ inline void pin(float (&sums)[COUNT]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++) asm volatile("" : "+f"(sums[i])::"memory");
}
/* Until at most PENDING of the latest groups are under way; `sums` are those of the groups that ended. */
template <int PENDING, int COUNT>
__device__ inline void wait_for_products(float (&sums)[COUNT]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
  pin(sums);
}

#define MLA_SUMS_8(s, i)                                                                                               \
  "+f"(s[i]), "+f"(s[i + 1]), "+f"(s[i + 2]), "+f"(s[i + 3]), "+f"(s[i + 4]), "+f"(s[i + 5]), "+f"(s[i + 6]), "+f"(s[i + 7])
#define MLA_SUMS_16(s, i) MLA_SUMS_8(s, i), MLA_SUMS_8(s, i + 8)
#define MLA_SUMS_32(s, i) MLA_SUMS_16(s, i), MLA_SUMS_16(s, i + 16)
#define MLA_SUMS_48(s, i) MLA_SUMS_32(s, i), MLA_SUMS_16(s, i + 32)
#define MLA_SUMS_64(s, i) MLA_SUMS_32(s, i), MLA_SUMS_32(s, i + 32)
#define MLA_SUMS_96(s, i) MLA_SUMS_64(s, i), MLA_SUMS_32(s, i + 64)
#define MLA_SUMS_128(s, i) MLA_SUMS_64(s, i), MLA_SUMS_64(s, i + 64)
#define MLA_NUMBERS_16 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define MLA_NUMBERS_32 \
  MLA_NUMBERS_16 \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define MLA_NUMBERS_48 \
  MLA_NUMBERS_32 \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define MLA_NUMBERS_64 \
  MLA_NUMBERS_48 \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define MLA_NUMBERS_96 \
  MLA_NUMBERS_64 \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79" \
  ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define MLA_NUMBERS_128 \
  MLA_NUMBERS_96 \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111" \
  ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

/* sums = left · right, plus sums if `accumulate`: both sides in shared memory, the left by rows.
   The same with the left side in registers, as pairs at (r, 2c) (r+8, 2c) (r, 2c+8) (r+8, 2c+8).
   BY_COLUMNS is how the right side lies. I0 to I6 are the numbers of the operands after the sums. */
#define MLA_PRODUCTS(N, TYPE, NAME, COUNT, I0, I1, I2, I3, I4, I5, I6)                                                 \
  template <bool BY_COLUMNS>                                                                                           \
  __device__ inline void multiply(float (&sums)[COUNT], uint64_t left, uint64_t right, bool accumulate, TYPE) {        \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I2 ", 0;\n"                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" MLA_NUMBERS_##COUNT "}, "        \
                 "%" #I0 ", %" #I1 ", p, 1, 1, 0, %" #I3 ";}"                                                          \
                 : MLA_SUMS_##COUNT(sums, 0)                                                                           \
                 : "l"(left), "l"(right), "r"(int(accumulate)), "n"(int(BY_COLUMNS)));                                 \
  }                                                                                                                    \
  template <bool BY_COLUMNS>                                                                                           \
  __device__ inline void multiply(float (&sums)[COUNT], const unsigned (&left)[4], uint64_t right, TYPE,               \
                                  bool accumulate = true) {                                                            \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %" #I5 ", 0;\n"                                                        \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {" MLA_NUMBERS_##COUNT "}, "        \
                 "{%" #I0 ", %" #I1 ", %" #I2 ", %" #I3 "}, %" #I4 ", p, 1, 1, %" #I6 ";}"                             \
                 : MLA_SUMS_##COUNT(sums, 0)                                                                           \
                 : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "l"(right), "r"(int(accumulate)),           \
                   "n"(int(BY_COLUMNS)));                                                                              \
  }
MLA_PRODUCTS(32, __half, "f16", 16, 16, 17, 18, 19, 20, 21, 22)
MLA_PRODUCTS(32, __nv_bfloat16, "bf16", 16, 16, 17, 18, 19, 20, 21, 22)
MLA_PRODUCTS(64, __half, "f16", 32, 32, 33, 34, 35, 36, 37, 38)
MLA_PRODUCTS(64, __nv_bfloat16, "bf16", 32, 32, 33, 34, 35, 36, 37, 38)
MLA_PRODUCTS(96, __half, "f16", 48, 48, 49, 50, 51, 52, 53, 54)
MLA_PRODUCTS(96, __nv_bfloat16, "bf16", 48, 48, 49, 50, 51, 52, 53, 54)
MLA_PRODUCTS(128, __half, "f16", 64, 64, 65, 66, 67, 68, 69, 70)
MLA_PRODUCTS(128, __nv_bfloat16, "bf16", 64, 64, 65, 66, 67, 68, 69, 70)
MLA_PRODUCTS(192, __half, "f16", 96, 96, 97, 98, 99, 100, 101, 102)
MLA_PRODUCTS(192, __nv_bfloat16, "bf16", 96, 96, 97, 98, 99, 100, 101, 102)
MLA_PRODUCTS(256, __half, "f16", 128, 128, 129, 130, 131, 132, 133, 134)
MLA_PRODUCTS(256, __nv_bfloat16, "bf16", 128, 128, 129, 130, 131, 132, 133, 134)
