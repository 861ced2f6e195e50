/* Elements of any type as float32, and back; alignment. */
#ifndef MLA_GENERAL_NUMBERS_CUH
#define MLA_GENERAL_NUMBERS_CUH

#include "../exponential.cuh"
#include "../mla_params.h"

/* The lower 16 bits of `bits`. */
static __device__ __forceinline__ float widen(uint32_t bits, MlaType type) {
  if (type == MLA_BFLOAT16) return __uint_as_float(bits << 16);
  float x;
  asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(x) : "r"(bits));
  return x;
}

/* To the nearest, ties to even. */
static __device__ __forceinline__ uint16_t narrow(float x, MlaType type) {
  uint16_t bits;
  if (type == MLA_BFLOAT16) asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  else asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}

/* COUNT elements from `index` on; more than one only where they are aligned. */
template <int COUNT>
static __device__ __forceinline__ void read_elements(float (&to)[COUNT], const void *start, MlaType type,
                                                     int64_t index) {
  static_assert(COUNT == 1 || COUNT == 4, "one element or four");
  if constexpr (COUNT == 1) {
    to[0] = type == MLA_FLOAT32 ? ((const float *)start)[index] : widen(((const uint16_t *)start)[index], type);
  } else if (type == MLA_FLOAT32) {
    float4 x = *(const float4 *)((const float *)start + index);
    to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
  } else {
    uint2 x = *(const uint2 *)((const uint16_t *)start + index);
    to[0] = widen(x.x & 0xffff, type), to[1] = widen(x.x >> 16, type);
    to[2] = widen(x.y & 0xffff, type), to[3] = widen(x.y >> 16, type);
  }
}

static __device__ __forceinline__ void write_element(void *start, MlaType type, int64_t index, float x) {
  if (type == MLA_FLOAT32) ((float *)start)[index] = x;
  else ((uint16_t *)start)[index] = narrow(x, type);
}

/* Whether each four columns of the rows may be read at once. */
static __device__ __forceinline__ bool is_aligned(const MlaRows &rows, MlaType type, int columns) {
  int64_t strides = rows.batch | rows.position | rows.head | columns;
  return strides % 4 == 0 && (uintptr_t)rows.start % (type == MLA_FLOAT32 ? 16 : 8) == 0;
}

#endif
