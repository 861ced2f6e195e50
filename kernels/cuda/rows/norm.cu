/* RMSNorm and its gradient: a warp takes a row, so that no row waits for another. With s = x + addend and
   r = 1 / sqrt(mean(s²) + eps): y = s·r·gain, dX = dS + r·dY·gain − s·r³·mean(dY·gain·s), dGain = the rows' sum of dY·s·r.
   norm_*: blocks of 8 warps; norm_backward_* has a part of MLA_NORM_PART_ROWS rows a block, norm_gain 32 columns. */
#include "rows.cuh"

constexpr int WARPS = 8;

template <int WIDTH>
__device__ inline void forward(const MlaNorm &p) {
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (row >= p.rows) return;
  const int64_t start = row * p.columns;
  float squares = 0;
  for (int c = lane * WIDTH; c < p.columns; c += 32 * WIDTH) {
    Pack<WIDTH> a = load<WIDTH>(p.x + start + c);
    if (p.addend) {
      a = plus(a, load<WIDTH>(p.addend + start + c));
      store(p.sum + start + c, a);
    }
#pragma unroll
    for (int i = 0; i < WIDTH; i++) squares += a.at[i] * a.at[i];
  }
  const float r = 1 / sqrtf(sum_of_warp(squares) / p.columns + p.eps);
  for (int c = lane * WIDTH; c < p.columns; c += 32 * WIDTH) {
    Pack<WIDTH> a = load<WIDTH>(p.sum + start + c); /* which this very thread has written */
    const Pack<WIDTH> gain = load<WIDTH>(p.gain + c);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) a.at[i] = a.at[i] * r * gain.at[i];
    store(p.y + start + c, a);
  }
}

extern "C" __global__ void norm_forward(const __grid_constant__ MlaNorm p) { forward<1>(p); }
extern "C" __global__ void norm_forward_by_4(const __grid_constant__ MlaNorm p) { forward<4>(p); }

/* dX of a row; returns its r. */
template <int WIDTH>
__device__ inline float row_backward(const MlaNorm &p, int64_t row) {
  const int lane = threadIdx.x % 32;
  const int64_t start = row * p.columns;
  const float *s = p.sum + start, *d_y = p.d_y + start;
  float squares = 0, products = 0;
  for (int c = lane * WIDTH; c < p.columns; c += 32 * WIDTH) {
    const Pack<WIDTH> a = load<WIDTH>(s + c), d = load<WIDTH>(d_y + c), gain = load<WIDTH>(p.gain + c);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) {
      squares += a.at[i] * a.at[i];
      products += d.at[i] * gain.at[i] * a.at[i];
    }
  }
  const float r = 1 / sqrtf(sum_of_warp(squares) / p.columns + p.eps);
  const float along_row = sum_of_warp(products) / p.columns * r * r;
  for (int c = lane * WIDTH; c < p.columns; c += 32 * WIDTH) {
    Pack<WIDTH> a = load<WIDTH>(s + c);
    const Pack<WIDTH> d = load<WIDTH>(d_y + c), gain = load<WIDTH>(p.gain + c);
#pragma unroll
    for (int i = 0; i < WIDTH; i++) a.at[i] = r * (d.at[i] * gain.at[i] - a.at[i] * along_row);
    if (p.d_sum) a = plus(a, load<WIDTH>(p.d_sum + start + c));
    store(p.d_x + start + c, a);
  }
  return r;
}

template <int WIDTH>
__device__ inline void backward(const MlaNorm &p) {
  __shared__ float rs[MLA_NORM_PART_ROWS];
  const int64_t first = int64_t(blockIdx.x) * MLA_NORM_PART_ROWS;
  const int rows = min(int64_t(MLA_NORM_PART_ROWS), p.rows - first);
  for (int i = threadIdx.x / 32; i < rows; i += WARPS) {
    const float r = row_backward<WIDTH>(p, first + i);
    if (threadIdx.x % 32 == 0) rs[i] = r;
  }
  __syncthreads();
  /* once more over rows that are still in the cache, now by columns */
  for (int c = threadIdx.x; c < p.columns; c += 32 * WARPS) {
    float sum = 0;
#pragma unroll 4
    for (int i = 0; i < rows; i++) {
      const int64_t at = (first + i) * p.columns + c;
      sum += p.d_y[at] * p.sum[at] * rs[i];
    }
    p.gain_parts[int64_t(blockIdx.x) * p.columns + c] = sum;
  }
}

extern "C" __global__ void norm_backward(const __grid_constant__ MlaNorm p) { backward<1>(p); }
extern "C" __global__ void norm_backward_by_4(const __grid_constant__ MlaNorm p) { backward<4>(p); }

extern "C" __global__ void norm_gain(const __grid_constant__ MlaNorm p) {
  __shared__ float sums[WARPS][32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
  float sum = 0;
  if (c < p.columns) {
#pragma unroll 8
    for (int64_t part = warp; part < p.parts; part += WARPS) sum += p.gain_parts[part * p.columns + c];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp || c >= p.columns) return;
  for (int other = 1; other < WARPS; other++) sum += sums[other][lane];
  p.d_gain[c] = sum;
}
