/* Powers of two that keep the weights of gradients in the range of halves, whose least normal number is 6e-5. */
#pragma once

#include "softmax.cuh"

template <typename T>
constexpr bool is_half = false;
template <>
constexpr bool is_half<__half> = true;

/* What brings `most` to 2^exponent or up to twice as much; at most 2^100, for a most of 0 too. Its inverse is as exact. */
__device__ inline float power_of_two_to(int exponent, float most) {
  const int own = (__float_as_int(most) >> 23 & 255) - 127;
  return __int_as_float((min(max(exponent - own, -126), 100) + 127) << 23);
}

/* What the weights of one row of sums are multiplied by: as much as its greatest weight so far allows, so that it only falls.
   bfloat16 needs none. */
template <typename T>
struct WeightScale {
  float scale = is_half<T> ? 0x1p100f : 1;

  /* `most` is the greatest weight of this thread, and COUNT threads have weights of the row. Returns what its sums so far are
     to be multiplied by. */
  template <int COUNT>
  __device__ float fit(float most) {
    if constexpr (!is_half<T>) return 1;
    most = max_of_lanes<COUNT>(most);
    if (most * scale < 0x1p15f) return 1;
    const float last = scale;
    scale = power_of_two_to(14, most);
    return scale / last;
  }
};
