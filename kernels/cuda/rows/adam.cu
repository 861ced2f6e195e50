/* Adam. adam_squares and adam_update: a block takes a piece; adam_norm, between them: one block. */
#include "rows.cuh"

extern "C" __global__ void adam_squares(const __grid_constant__ MlaAdam p) {
  const MlaAdamPiece piece = p.of[blockIdx.x];
  float sum = 0;
  for (int i = threadIdx.x; i < piece.count; i += blockDim.x) sum += piece.gradient[i] * piece.gradient[i];
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) p.squares[blockIdx.x] = sum;
}

extern "C" __global__ void adam_norm(const __grid_constant__ MlaAdam p) {
  float sum = 0;
  for (int i = threadIdx.x; i < p.pieces; i += blockDim.x) sum += p.squares[i];
  sum = sum_of_block(sum);
  if (threadIdx.x == 0) *p.norm = sqrtf(sum);
}

template <int WIDTH>
__device__ inline void update(const MlaAdam &p, const MlaAdamPiece &piece, float factor) {
  for (int i = threadIdx.x * WIDTH; i < piece.count; i += blockDim.x * WIDTH) {
    const Pack<WIDTH> gradient = load<WIDTH>(piece.gradient + i);
    Pack<WIDTH> value = load<WIDTH>(piece.value + i), first = load<WIDTH>(p.first_moment + piece.first + i),
                second = load<WIDTH>(p.second_moment + piece.first + i);
#pragma unroll
    for (int j = 0; j < WIDTH; j++) {
      const float g = gradient.at[j] * factor;
      first.at[j] = first.at[j] * p.keep1 + g * p.add1;
      second.at[j] = second.at[j] * p.keep2 + g * g * p.add2;
      value.at[j] -= first.at[j] * p.rate / (sqrtf(second.at[j]) + p.smallest);
    }
    store(piece.new_value + i, value);
    store(p.new_first_moment + piece.first + i, first);
    store(p.new_second_moment + piece.first + i, second);
  }
}

extern "C" __global__ void adam_update(const __grid_constant__ MlaAdam p) {
  const MlaAdamPiece piece = p.of[blockIdx.x];
  float factor = p.clip_norm / *p.norm;
  if (factor > 1) factor = 1; /* NaN stays */
  if (piece.first % 4 == 0 && piece.count % 4 == 0) update<4>(p, piece, factor);
  else update<1>(p, piece, factor);
}
