/* Steps F3 by way of lse and B3 of gradients/README.md on scores as products leave them (wgmma.cuh). */
#pragma once

#include "softmax.cuh"
#include "wgmma.cuh"

/* lse in the unit of exp2, such that rows that see nothing get weights of 0. */
__device__ inline float weight_reference(float lse) { return lse == -INFINITY ? INFINITY : lse * LOG2_E; }

__device__ inline float weight(float score, float scale, float reference) {
  return exp2_fast(fmaf(score, scale, -reference));
}

/* Powers of two that keep P and dS in the range of halves; bfloat16 needs none. Weights are multiplied by
   2^WEIGHT_EXPONENT where they become a left side, and d_out may come multiplied by a power (mla_gradient_operands). */
template <typename T>
struct GradientScale {
  static constexpr int WEIGHT_EXPONENT = 0;
  __device__ explicit GradientScale(const float *) {}
  template <int COUNT, int SUMS>
  __device__ void fit(float (&)[COUNT], float (&)[SUMS]) {}
  static __device__ float d_out_power(const float *) { return 1; }
  __device__ float weight_factor() const { return 1; }
  __device__ float gradient_factor(int) const { return 1; }
};

template <>
struct GradientScale<__half> {
  static constexpr int WEIGHT_EXPONENT = 12;
  const float d_out;
  float factor[2] = {0x1p120f, 0x1p120f}; /* of dS in each of the thread's rows: as large as its greatest so far allows */

  __device__ explicit GradientScale(const float *power) : d_out(d_out_power(power)) {}
  static __device__ float d_out_power(const float *power) { return power ? *power : 1; }

  /* Multiplies dS. Where a row's greatest would be no half any more, brings it to [2^7, 2^8) and `sums` to that factor. */
  template <int COUNT, int SUMS>
  __device__ void fit(float (&d_s)[COUNT], float (&sums)[SUMS]) {
    float ratio[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float most = 0;
#pragma unroll
      for (int n = 0; n < COUNT; n += 4) most = fmaxf(most, fmaxf(fabsf(d_s[n + 2 * i]), fabsf(d_s[n + 2 * i + 1])));
      most = row_max(most);
      float last = factor[i];
      if (most * last > 0x1p15f) factor[i] = __uint_as_float(min(261 - (__float_as_uint(most) >> 23), 247u) << 23);
      ratio[i] = factor[i] / last;
    }
    if (__any_sync(~0u, ratio[0] < 1 || ratio[1] < 1))
#pragma unroll
      for (int i = 0; i < SUMS; i++) sums[i] *= ratio[i / 2 % 2];
#pragma unroll
    for (int i = 0; i < COUNT; i++) d_s[i] *= factor[i / 2 % 2];
  }
  /* What undoes it in dV, and in dQ or dK. */
  __device__ float weight_factor() const { return 0x1p-12f / d_out; }
  __device__ float gradient_factor(int row) const { return 1 / factor[row] / d_out; }
};
