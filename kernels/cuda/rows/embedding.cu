/* The gradient of an embedding. First the tokens are put in the order of the bins of table rows that they read. Then a warp
   adds up 32 * WIDTH columns of one row of the table, out of its bin's tokens; long bins are shared by the warps of a block,
   each with a stretch of the tokens. So the ids fix the order of all sums.
   grid: embedding_order (bins); embedding_sum* (table rows by WARPS, slices of columns). */
#include "rows.cuh"

constexpr int WARPS = 8;

/* Bins have bin_rows rows of the table. Everybody counts the tokens of all bins before its own: its place in `order`. */
extern "C" __global__ void __launch_bounds__(32 * WARPS) embedding_order(const __grid_constant__ MlaEmbedding p) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned first_row = blockIdx.x * p.bin_rows, rows = min(p.bin_rows, p.table_rows - int(first_row));
  const int64_t stretch = (p.tokens + 32 * WARPS - 1) / (32 * WARPS) * 32; /* of a warp */
  const int64_t begin = warp * stretch, end = min(begin + stretch, p.tokens);
  /* negative ids are beyond every table as unsigned ones */
  int before = 0, mine = 0;
#pragma unroll 8
  for (int64_t t = begin + lane; t < end; t += 32) {
    const unsigned id = p.ids[t];
    before += id < first_row;
    mine += id - first_row < rows;
  }
  __shared__ int before_of[WARPS], mine_of[WARPS];
  before = __reduce_add_sync(~0u, before);
  mine = __reduce_add_sync(~0u, mine);
  if (lane == 0) before_of[warp] = before, mine_of[warp] = mine;
  __syncthreads();
  int place = 0;
  for (int w = 0; w < WARPS; w++) place += before_of[w];
  if (threadIdx.x == 0) p.bins[blockIdx.x] = place;
  for (int w = 0; w < warp; w++) place += mine_of[w];
#pragma unroll 4
  for (int64_t first = begin; first < end; first += 32) {
    const int64_t t = first + lane;
    const bool is_mine = t < end && unsigned(p.ids[t]) - first_row < rows;
    const unsigned all = __ballot_sync(~0u, is_mine);
    if (is_mine) p.order[place + __popc(all & ((1u << lane) - 1))] = int(t);
    place += __popc(all);
  }
  if (blockIdx.x == gridDim.x - 1 && warp == WARPS - 1 && lane == 0) p.bins[gridDim.x] = place;
}

/* A stretch of `order`. */
struct Tokens {
  int begin, end;

  static __device__ Tokens of_row(const MlaEmbedding &p, int row) {
    const int bin = row / p.bin_rows;
    return row < p.table_rows ? Tokens{p.bins[bin], p.bins[bin + 1]} : Tokens{0, 0};
  }
  /* That of one of the warps. */
  __device__ Tokens part(int warp) const {
    const int stretch = (end - begin + WARPS - 1) / WARPS, first = begin + warp * stretch;
    return {first, min(first + stretch, end)};
  }
  __device__ bool are_many() const { return end - begin > 128; }
};

/* A row of the table and, of each lane, a column and those after it. */
template <int WIDTH>
struct Place {
  const MlaEmbedding &p;
  int row, column = (blockIdx.y * 32 + threadIdx.x % 32) * WIDTH;

  /* The sum of those of the tokens that read the row. */
  __device__ Pack<WIDTH> sum_of(Tokens tokens) const {
    constexpr int AT_ONCE = 8;
    const int read_column = min(column, p.columns - WIDTH);
    Pack<WIDTH> sum = {};
    for (int first = tokens.begin; first < tokens.end; first += 32) {
      const int at = first + threadIdx.x % 32, token = at < tokens.end ? p.order[at] : 0;
      unsigned mine = __ballot_sync(~0u, at < tokens.end && p.ids[token] == row);
      while (mine) {
        Pack<WIDTH> numbers[AT_ONCE];
        const int count = __popc(mine);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) { /* after the last one others, for nothing: so that all are on their way at once */
          const int next = __shfl_sync(~0u, token, __ffs(mine) - 1);
          numbers[i] = load<WIDTH>(p.d_rows + int64_t(next) * p.columns + read_column);
          mine &= mine - 1;
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) add(sum, numbers[i], i < count);
      }
    }
    return sum;
  }
  static __device__ void add(Pack<WIDTH> &sum, const Pack<WIDTH> &numbers, bool is_there) {
#pragma unroll
    for (int n = 0; n < WIDTH; n++) sum.at[n] += is_there ? numbers.at[n] : 0;
  }
  __device__ void write(const Pack<WIDTH> &sum) const {
    if (row < p.table_rows && column < p.columns) store(p.d_table + int64_t(row) * p.columns + column, sum);
  }
};

template <int WIDTH>
__device__ inline void sum_rows(const MlaEmbedding &p) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  auto row_of = [](int of_warp) { return int(of_warp * gridDim.x + blockIdx.x); }; /* neighbours, often all frequent, apart */
  const Place<WIDTH> own = {p, row_of(warp)};
  const Tokens tokens = Tokens::of_row(p, own.row);
  if (!tokens.are_many()) own.write(own.sum_of(tokens));
  if (!__syncthreads_or(tokens.are_many())) return;

  __shared__ Pack<WIDTH> parts[WARPS][32];
  for (int w = 0; w < WARPS; w++) {
    const Place<WIDTH> place = {p, row_of(w)};
    const Tokens of_row = Tokens::of_row(p, place.row);
    if (!of_row.are_many()) continue;
    parts[warp][lane] = place.sum_of(of_row.part(warp));
    __syncthreads();
    if (warp == w) {
      Pack<WIDTH> sum = {};
      for (int part = 0; part < WARPS; part++) place.add(sum, parts[part][lane], true);
      place.write(sum);
    }
    __syncthreads();
  }
}

/* Four blocks at once: with more, there would be no registers for the numbers on their way. */
#define KERNEL(NAME, WIDTH)                                                                                  \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, 4) NAME(const __grid_constant__ MlaEmbedding p) { \
    sum_rows<WIDTH>(p);                                                                                      \
  }
KERNEL(embedding_sum, 1)
KERNEL(embedding_sum_by_4, 4)
