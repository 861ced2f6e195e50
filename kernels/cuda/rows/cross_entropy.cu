/* Mean cross-entropy and its gradient, (softmax − one-hot)·dLoss / rows. cross_entropy_forward, cross_entropy_backward: a warp
   takes a row, 8 warps a block; cross_entropy_mean: one block. */
#include "rows.cuh"

constexpr int WARPS = 8;

struct Softmax {
  float greatest, sum; /* of exp(logit − greatest) */
};

/* Of a row, the same in every lane. */
__device__ inline Softmax softmax_of(const float *logits, int columns) {
  const int lane = threadIdx.x % 32;
  float greatest = -INFINITY, sum = 0;
  for (int c = lane; c < columns; c += 32) greatest = fmaxf(greatest, logits[c]);
  greatest = max_of_warp(greatest);
  for (int c = lane; c < columns; c += 32) sum += expf(logits[c] - greatest);
  return {greatest, sum_of_warp(sum)};
}

extern "C" __global__ void cross_entropy_forward(const __grid_constant__ MlaCrossEntropy p) {
  const int64_t row = int64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (row >= p.rows) return;
  const float *logits = p.logits + row * p.columns;
  const Softmax softmax = softmax_of(logits, p.columns);
  const int label = p.labels[row];
  const float of_label = label >= 0 && label < p.columns ? logits[label] - softmax.greatest : 0;
  if (threadIdx.x % 32 == 0) p.row_losses[row] = logf(softmax.sum) - of_label;
}

extern "C" __global__ void cross_entropy_mean(const __grid_constant__ MlaCrossEntropy p) {
  float sum = 0;
  for (int64_t row = threadIdx.x; row < p.rows; row += blockDim.x) sum += p.row_losses[row];
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) *p.loss = sum / p.rows;
}

extern "C" __global__ void cross_entropy_backward(const __grid_constant__ MlaCrossEntropy p) {
  const int64_t row = int64_t(blockIdx.x) * WARPS + threadIdx.x / 32;
  if (row >= p.rows) return;
  const float *logits = p.logits + row * p.columns;
  const Softmax softmax = softmax_of(logits, p.columns);
  const int label = p.labels[row];
  const float share = *p.d_loss / p.rows;
  for (int c = threadIdx.x % 32; c < p.columns; c += 32)
    p.d_logits[row * p.columns + c] = (expf(logits[c] - softmax.greatest) / softmax.sum - (c == label)) * share;
}
