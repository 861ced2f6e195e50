/* MLADelta, B1 of gradients/README.md: delta = dOut·out − dLse. A warp takes a row. */
#include "../plan.h"
#include "operands.cuh"

/* The thread's share of the product of two rows. */
template <int COUNT>
static __device__ __forceinline__ float product_of(const MlaParams &p, int64_t out, int64_t d_out) {
  float sum = 0;
  for (int c = threadIdx.x % 32 * COUNT; c < p.dv; c += 32 * COUNT) {
    float x[COUNT], y[COUNT];
    read_elements(x, p.out.start, p.type, out + c);
    read_elements(y, p.d_out.start, p.type, d_out + c);
#pragma unroll
    for (int e = 0; e < COUNT; e++) sum += x[e] * y[e];
  }
  return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) mla_delta(const __grid_constant__ MlaArguments a) {
  const MlaParams &p = a.params;
  int64_t rows = (int64_t)p.batch * p.hq * p.sq, row = ((int64_t)blockIdx.x * THREADS + threadIdx.x) / 32;
  if (row >= rows) return;
  int position = row % p.sq, head = row / p.sq % p.hq, batch = row / p.sq / p.hq;
  int64_t out = batch * p.out.batch + position * p.out.position + head * p.out.head;
  int64_t d_out = batch * p.d_out.batch + position * p.d_out.position + head * p.d_out.head;
  bool is_fast = is_aligned(p.out, p.type, p.dv) && is_aligned(p.d_out, p.type, p.dv);
  float sum = is_fast ? product_of<4>(p, out, d_out) : product_of<1>(p, out, d_out);
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) sum += __shfl_xor_sync(0xffffffff, sum, lane);
  if (threadIdx.x % 32 == 0) p.delta[row] = sum - (p.d_lse ? p.d_lse[row] : 0);
}
