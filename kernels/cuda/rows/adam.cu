/* One update of Adam, number by number. */
#include "rows.cuh"

template <int WIDTH>
__device__ inline void update(const MlaAdam &p) {
  const int64_t at = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
  if (at >= p.count) return;
  float factor = p.clip_norm / *p.norm;
  if (factor > 1) factor = 1;
  const Pack<WIDTH> gradient = load<WIDTH>(p.gradient + at);
  Pack<WIDTH> value = load<WIDTH>(p.value + at), first = load<WIDTH>(p.first_moment + at),
              second = load<WIDTH>(p.second_moment + at);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    const float g = gradient.at[i] * factor;
    first.at[i] = first.at[i] * p.keep1 + g * p.add1;
    second.at[i] = second.at[i] * p.keep2 + g * g * p.add2;
    value.at[i] -= first.at[i] * p.rate / (sqrtf(second.at[i]) + p.smallest);
  }
  store(p.new_value + at, value);
  store(p.new_first_moment + at, first);
  store(p.new_second_moment + at, second);
}

extern "C" __global__ void adam_update(const __grid_constant__ MlaAdam p) { update<1>(p); }
extern "C" __global__ void adam_update_by_4(const __grid_constant__ MlaAdam p) { update<4>(p); }
