/* MLAAttention and MLADecode, F1-F4 of gradients/README.md with the softmax online (FlashAttention-2,
   arXiv:2307.08691, algorithm 1):
     scores = Q·Kᵀ → P = exp(scores − max) → sums = sums · alpha + P·V
   Scores and maxima are in powers of 2. Where the keys are split, partial_out is [splits, batch, hq, sq, dv] and
   partial_lse [splits, batch, hq, sq], and mla_attention_merge makes one of them. */
#include "query_tile.cuh"
#include "results.cuh"

/* A row's scores become weights against the greatest score so far; returns what its sums so far are to be multiplied
   by. */
template <class T>
static __device__ __forceinline__ float weigh_row(float (&scores)[T::Walked::COUNT], float &row_max, float &row_total) {
  float greatest = row_max;
#pragma unroll
  for (int j = 0; j < T::Walked::COUNT; j++) greatest = fmaxf(greatest, scores[j]);
#pragma unroll
  for (int lane = T::LANES / 2; lane > 0; lane /= 2)
    greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffff, greatest, lane));
  float reference = greatest == -INFINITY ? 0 : greatest, total = 0;
#pragma unroll
  for (int j = 0; j < T::Walked::COUNT; j++) {
    scores[j] = exp2_fast(scores[j] - reference);
    total += scores[j];
  }
  float alpha = exp2_fast(row_max - reference);
  row_max = greatest;
  row_total = row_total * alpha + total;
  return alpha;
}

/* A block owns T::ROWS rows of queries and C::COLUMNS columns of their output. */
template <class T, class C, bool IS_FAST>
static __device__ __forceinline__ void attend(const MlaArguments &a) {
  constexpr int STAGE = MLA_GENERAL_STAGE(T::ROWS, C::COLUMNS), WEIGHTS = T::ROWS * WALK;
  extern __shared__ float4 shared[];
  Weights<T> weights = {(float *)shared};
  Range *ranges = (Range *)(weights.memory + WEIGHTS + 2 * STAGE);
  Stages<STAGE> stages = {weights.memory + WEIGHTS, 0};

  const MlaParams &p = a.params;
  QueryTile tile = query_tile<T::ROWS>(a, p.dv, C::COLUMNS);
  Operand q = query_operand(p, tile.batch, tile.kv_head, tile.q_length);
  Operand k = key_operand(p, tile.batch, tile.kv_head, tile.kv_length);
  Operand v = value_operand(p, tile.batch, tile.kv_head, tile.kv_length);
  for (int row = threadIdx.x; row < T::ROWS; row += THREADS) ranges[row] = tile.keys_of(p, row);

  float sums[T::Rows::COUNT][C::COUNT], row_max[T::Rows::COUNT], row_total[T::Rows::COUNT];
  clear(sums);
#pragma unroll
  for (int i = 0; i < T::Rows::COUNT; i++) row_max[i] = -INFINITY, row_total[i] = 0;

  int key = tile.first_key;
  float scale = p.softmax_scale * LOG2_E;
  auto load_scores = [&](int n, float *stage) {
    stage_chunk<IS_FAST, T::ROWS>(stage, q, tile.first_row, n * CHUNK);
    stage_chunk<IS_FAST, WALK>(stage + MLA_GENERAL_CHUNK_FLOATS(T::ROWS), k, key, n * CHUNK);
  };
  auto load_values = [&](int n, float *stage) {
    stage_rows<IS_FAST, C::SLICE, C::COLUMNS>(stage, v, key + n * C::SLICE, tile.first_column);
  };
  if (key < tile.end_key) stages.begin(load_scores);
  while (key < tile.end_key) {
    /* F1 */
    float scores[T::Rows::COUNT][T::Walked::COUNT];
    clear(scores);
    stages.product(
        slices_of(q.depth, CHUNK), load_scores, [&](float *stage) { load_values(0, stage); },
        [&](int, const float *stage) { multiply_rows<T>(scores, stage); });
    /* F2, F3 so far */
    bool is_masked = tile.is_masked(key);
#pragma unroll
    for (int i = 0; i < T::Rows::COUNT; i++) {
      Range seen = is_masked ? ranges[T::row(i)] : Range{0, 0};
#pragma unroll
      for (int j = 0; j < T::Walked::COUNT; j++) {
        int at = key + T::walked(j);
        scores[i][j] = is_masked && (at < seen.lo || at >= seen.hi) ? -INFINITY : scores[i][j] * scale;
      }
      float alpha = weigh_row<T>(scores[i], row_max[i], row_total[i]);
#pragma unroll
      for (int c = 0; c < C::COUNT; c++) sums[i][c] *= alpha;
    }
#pragma unroll
    for (int j = 0; j < T::Walked::COUNT; j++) {
      float column[T::Rows::COUNT];
#pragma unroll
      for (int i = 0; i < T::Rows::COUNT; i++) column[i] = scores[i][j];
      weights.write(column, T::walked(j) / 4, j % 4);
    }
    /* F4 so far */
    int slices = slices_of(min(WALK, tile.end_key - key), C::SLICE);
    stages.product(
        slices, load_values,
        [&](float *stage) {
          key += WALK;
          if (key < tile.end_key) load_scores(0, stage);
        },
        [&](int n, const float *stage) { multiply_weights<T, C>(sums, weights, stage, n); });
  }

  int64_t part = (int64_t)tile.split * p.batch * p.hq * p.sq;
#pragma unroll
  for (int i = 0; i < T::Rows::COUNT; i++) {
    float total = row_total[i];
#pragma unroll
    for (int lane = T::LANES / 2; lane > 0; lane /= 2) total += __shfl_xor_sync(0xffffffff, total, lane);
    if (!tile.exists(T::row(i))) continue;
    int64_t stat = tile.stat(p, T::row(i));
    int position = tile.position(T::row(i)), head = tile.head(T::row(i));
    Target to = a.splits > 1 ? float_target((float *)a.partial_out, part + stat, 0, p.dv)
                             : target(p.out, p.type, tile.batch, position, head, 0, p.dv);
    write_sums<C, IS_FAST>(to, sums[i], T::lane(), tile.first_column, total == 0 ? 0 : 1 / total);
    float *lse = a.splits > 1 ? a.partial_lse + part : p.lse;
    if (T::lane() == 0 && tile.first_column == 0) lse[stat] = total == 0 ? -INFINITY : row_max[i] * LN_2 + logf(total);
  }
}

#define ATTENTION(name, rows, lanes, columns, is_fast)                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) name(const __grid_constant__ MlaArguments a) { \
    using T = Tile<rows, lanes>;                                                                          \
    attend<T, Columns<T, columns>, is_fast>(a);                                                           \
  }

ATTENTION(mla_attention_64, 128, 16, 64, true)
ATTENTION(mla_attention_128, 128, 16, 128, true)
ATTENTION(mla_attention_512, 32, 32, 512, true)
ATTENTION(mla_attention_any_64, 128, 16, 64, false)
ATTENTION(mla_attention_any_128, 128, 16, 128, false)
ATTENTION(mla_attention_any_512, 32, 32, 512, false)

/* A thread makes one number of a row out of the splits'. */
extern "C" __global__ void __launch_bounds__(THREADS) mla_attention_merge(const __grid_constant__ MlaArguments a) {
  const MlaParams &p = a.params;
  int64_t rows = (int64_t)p.batch * p.hq * p.sq, n = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = n / p.dv;
  if (row >= rows) return;
  float greatest = -INFINITY, total = 0, sum = 0;
  for (int s = 0; s < a.splits; s++) greatest = fmaxf(greatest, a.partial_lse[s * rows + row]);
  float reference = greatest == -INFINITY ? 0 : greatest;
  for (int s = 0; s < a.splits; s++) {
    float weight = exp2_fast((a.partial_lse[s * rows + row] - reference) * LOG2_E);
    total += weight;
    sum += weight * ((const float *)a.partial_out)[s * rows * p.dv + n];
  }
  int column = n % p.dv, position = row % p.sq, head = row / p.sq % p.hq, batch = row / p.sq / p.hq;
  write_element(p.out.start, p.type, batch * p.out.batch + position * p.out.position + head * p.out.head + column,
                total == 0 ? 0 : sum / total);
  if (column == 0) p.lse[row] = total == 0 ? -INFINITY : reference + logf(total);
}
