/* The instructions of sm_80 that the kernels are made of (PTX ISA: mma.sync, ldmatrix, cp.async), by what they do. */
#pragma once

#include "../exponential.cuh"
#include "../halves.cuh"

/* Floats multiplied as TF32, which is their first 11 bits. */
struct Tf32 {
  float number;
};
template <typename T>
constexpr bool is_tf32 = false;
template <>
constexpr bool is_tf32<Tf32> = true;

/* Floats as sums high + low of two halves, 22 bits. In memory, 16 bytes of eight highs and then 16 of their lows; in the
   registers of a fragment, all highs and then all lows. */
struct SplitHalf {
  __half2 part;
};
template <typename T>
constexpr bool is_split = false;
template <>
constexpr bool is_split<SplitHalf> = true;

/* Left columns, and right rows, of one product of matrices. */
template <typename T>
constexpr int depth_of = is_tf32<T> ? 8 : 16;

/* Registers of a left side, and of two right sides. */
template <typename T>
constexpr int registers_of = is_split<T> ? 8 : 4;

/* sums += left · right, 16x8x16. In terms of lane/4 = r and lane%4 = c:
   sums  (r, 2c) (r, 2c+1) (r+8, 2c) (r+8, 2c+1)
   left  pairs at (r, 2c) (r+8, 2c) (r, 2c+8) (r+8, 2c+8); right  pairs down the column r at rows 2c and 2c+8 */
__device__ inline void multiply(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1, __half) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}
__device__ inline void multiply(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1,
                                __nv_bfloat16) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

/* The same of TF32, 16x8x8; of the bits of a float the last 13 count for nothing.
   left  (r, c) (r+8, c) (r, c+4) (r+8, c+4); right  down the column r at rows c and c+4 */
__device__ inline void multiply_tf32(float (&sums)[4], const float (&left)[4], float right0, float right1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(__float_as_uint(left[0])), "r"(__float_as_uint(left[1])), "r"(__float_as_uint(left[2])),
        "r"(__float_as_uint(left[3])), "r"(__float_as_uint(right0)), "r"(__float_as_uint(right1)));
}

/* More than x by what cutting off 13 bits takes away on average. As good as rounding, and NaN stays. */
__device__ inline float make_up_for_cut(float x) { return fmaf(x, 0x1p-11f * LN_2, x); }

__device__ inline void multiply(float (&sums)[4], const unsigned (&left)[4], unsigned right0, unsigned right1, Tf32) {
  const auto number = [](unsigned bits) { return make_up_for_cut(__uint_as_float(bits)); };
  multiply_tf32(sums, {number(left[0]), number(left[1]), number(left[2]), number(left[3])}, number(right0), number(right1));
}

/* Two neighbours of a row. */
__device__ inline void split(unsigned &high, unsigned &low, float first, float second) {
  high = pack(first, second, __half());
  const float2 highs = unpack(high, __half());
  low = pack(first - highs.x, second - highs.y, __half());
}

/* Registers [FIRST, FIRST + 4) of a fragment. */
template <int FIRST, int COUNT>
__device__ inline unsigned (&four(unsigned (&fragment)[COUNT]))[4] {
  return reinterpret_cast<unsigned(&)[4]>(fragment[FIRST]);
}
template <int FIRST, int COUNT>
__device__ inline const unsigned (&four(const unsigned (&fragment)[COUNT]))[4] {
  return reinterpret_cast<const unsigned(&)[4]>(fragment[FIRST]);
}

/* Four 8x8 matrices; lane i names row i%8 of matrix i/8. Lane i gets the pair at (i/4, 2(i%4)) of each. */
__device__ inline void load_matrices(unsigned (&to)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}
/* The same of the transposed matrices. */
__device__ inline void load_matrices_transposed(unsigned (&to)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
}

/* The same of two matrices, that the lanes below 16 name. */
__device__ inline void load_two_matrices_transposed(unsigned &first, unsigned &second, unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(first), "=r"(second)
               : "r"(address)
               : "memory");
}

__device__ inline void store_shared(unsigned to, unsigned bits) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(bits) : "memory");
}
__device__ inline unsigned load_shared(unsigned from) {
  unsigned bits;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits) : "r"(from) : "memory");
  return bits;
}
__device__ inline void load_pair(unsigned &first, unsigned &second, unsigned from) {
  asm volatile("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(first), "=r"(second) : "r"(from) : "memory");
}
__device__ inline void store_chunk(unsigned to, unsigned a, unsigned b, unsigned c, unsigned d) {
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
__device__ inline void store_half_chunk(unsigned to, unsigned a, unsigned b) {
  asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(to), "r"(a), "r"(b) : "memory");
}
__device__ inline void store_pair(unsigned to, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1,%2};" ::"r"(to), "f"(first), "f"(second) : "memory");
}
__device__ inline float4 load_four(unsigned from) {
  float4 x;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "r"(from) : "memory");
  return x;
}

/* 16 bytes into shared memory while the thread goes on; zeros, and no access, unless is_there. */
__device__ inline void copy_async(unsigned to, const void *from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}
/* The same of 4 bytes. */
__device__ inline void copy_float_async(unsigned to, const float *from, bool is_there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(is_there ? 4 : 0) : "memory");
}
/* What was copied so far is one group. */
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/* Until at most PENDING of the thread's latest groups are under way. */
template <int PENDING>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}
