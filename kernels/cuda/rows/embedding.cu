/* The gradient of an embedding: a block takes a row of the table and a slice of its columns, one for each thread. Every warp
   looks through all ids, 32 at a time. grid: (table rows, slices). */
#include "rows.cuh"

extern "C" __global__ void embedding_backward(const __grid_constant__ MlaEmbedding p) {
  const int lane = threadIdx.x % 32, row = blockIdx.x, c = blockIdx.y * blockDim.x + threadIdx.x;
  float sum = 0;
  for (int64_t first = 0; first < p.tokens; first += 32) {
    const bool is_mine = first + lane < p.tokens && p.ids[first + lane] == row;
    unsigned mine = __ballot_sync(~0u, is_mine);
    for (; mine; mine &= mine - 1)
      if (c < p.columns) sum += p.d_rows[(first + __ffs(mine) - 1) * p.columns + c];
  }
  if (c < p.columns) p.d_table[int64_t(row) * p.columns + c] = sum;
}
