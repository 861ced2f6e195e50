/* silu(gate) · up and its gradient, number by number; silu' = σ + silu·(1 − σ). */
#include "rows.cuh"

__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

template <int WIDTH>
__device__ inline void forward(const MlaSwiglu &p) {
  const int64_t at = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
  if (at >= p.count) return;
  const Pack<WIDTH> gate = load<WIDTH>(p.gate + at);
  Pack<WIDTH> out = load<WIDTH>(p.up + at);
#pragma unroll
  for (int i = 0; i < WIDTH; i++) out.at[i] *= gate.at[i] * sigmoid(gate.at[i]);
  store(p.out + at, out);
}

extern "C" __global__ void swiglu_forward(const __grid_constant__ MlaSwiglu p) { forward<1>(p); }
extern "C" __global__ void swiglu_forward_by_4(const __grid_constant__ MlaSwiglu p) { forward<4>(p); }

template <int WIDTH>
__device__ inline void backward(const MlaSwiglu &p) {
  const int64_t at = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * WIDTH;
  if (at >= p.count) return;
  const Pack<WIDTH> gate = load<WIDTH>(p.gate + at), up = load<WIDTH>(p.up + at), d_out = load<WIDTH>(p.d_out + at);
  Pack<WIDTH> d_gate, d_up;
#pragma unroll
  for (int i = 0; i < WIDTH; i++) {
    const float open = sigmoid(gate.at[i]), silu = gate.at[i] * open;
    d_up.at[i] = d_out.at[i] * silu;
    d_gate.at[i] = d_out.at[i] * up.at[i] * (open + silu * (1 - open));
  }
  store(p.d_gate + at, d_gate);
  store(p.d_up + at, d_up);
}

extern "C" __global__ void swiglu_backward(const __grid_constant__ MlaSwiglu p) { backward<1>(p); }
extern "C" __global__ void swiglu_backward_by_4(const __grid_constant__ MlaSwiglu p) { backward<4>(p); }
