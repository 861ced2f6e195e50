/* MLAAttentionDq and MLADecodeDq, B2-B4 of gradients/README.md. The walk of mla_attention.cu:
     scores = Q·Kᵀ → P = exp(scores − lse), dP = dOut·Vᵀ → dS = P·(dP − delta) → sums += dS·K
   Where the keys are split, partial_out is [splits, batch, hq, sq, dn + dr], and mla_attention_dq_sum adds them up. */
#include "query_tile.cuh"
#include "results.cuh"

/* A block owns T::ROWS rows of queries and C::COLUMNS columns of their gradient. */
template <class T, class C, bool IS_FAST>
static __device__ __forceinline__ void query_gradient(const MlaArguments &a) {
  constexpr int STAGE = MLA_GENERAL_STAGE(T::ROWS, C::COLUMNS), WEIGHTS = T::ROWS * WALK;
  extern __shared__ float4 shared[];
  Weights<T> weights = {(float *)shared};
  Range *ranges = (Range *)(weights.memory + WEIGHTS + 2 * STAGE);
  float *lse = (float *)(ranges + T::ROWS), *delta = lse + T::ROWS; /* lse in powers of 2 */
  Stages<STAGE> stages = {weights.memory + WEIGHTS, 0};

  const MlaParams &p = a.params;
  QueryTile tile = query_tile<T::ROWS>(a, p.dn + p.dr, C::COLUMNS);
  Operand q = query_operand(p, tile.batch, tile.kv_head, tile.q_length);
  Operand d_out = d_out_operand(p, tile.batch, tile.kv_head, tile.q_length);
  Operand k = key_operand(p, tile.batch, tile.kv_head, tile.kv_length);
  Operand v = value_operand(p, tile.batch, tile.kv_head, tile.kv_length);
  for (int row = threadIdx.x; row < T::ROWS; row += THREADS) {
    ranges[row] = tile.keys_of(p, row);
    bool exists = tile.first_row + row < q.rows; /* within the length: delta is anything past it */
    lse[row] = exists ? p.lse[tile.stat(p, row)] * LOG2_E : 0;
    delta[row] = exists ? p.delta[tile.stat(p, row)] : 0;
  }

  float sums[T::Rows::COUNT][C::COUNT];
  clear(sums);

  int key = tile.first_key;
  float scale = p.softmax_scale * LOG2_E;
  auto load_scores = [&](int n, float *stage) {
    stage_chunk<IS_FAST, T::ROWS>(stage, q, tile.first_row, n * CHUNK);
    stage_chunk<IS_FAST, WALK>(stage + MLA_GENERAL_CHUNK_FLOATS(T::ROWS), k, key, n * CHUNK);
  };
  auto load_d_p = [&](int n, float *stage) {
    stage_chunk<IS_FAST, T::ROWS>(stage, d_out, tile.first_row, n * CHUNK);
    stage_chunk<IS_FAST, WALK>(stage + MLA_GENERAL_CHUNK_FLOATS(T::ROWS), v, key, n * CHUNK);
  };
  auto load_keys = [&](int n, float *stage) {
    stage_rows<IS_FAST, C::SLICE, C::COLUMNS>(stage, k, key + n * C::SLICE, tile.first_column);
  };
  if (key < tile.end_key) stages.begin(load_scores);
  while (key < tile.end_key) {
    float products[T::Rows::COUNT][T::Walked::COUNT];
    auto multiply = [&](int, const float *stage) { multiply_rows<T>(products, stage); };
    /* F1 */
    clear(products);
    stages.product(slices_of(q.depth, CHUNK), load_scores, [&](float *stage) { load_d_p(0, stage); }, multiply);
    /* F3; a thread reads back what it wrote */
    bool is_masked = tile.is_masked(key);
#pragma unroll
    for (int j = 0; j < T::Walked::COUNT; j++) {
      int at = key + T::walked(j);
      float column[T::Rows::COUNT];
#pragma unroll
      for (int i = 0; i < T::Rows::COUNT; i++) {
        Range seen = is_masked ? ranges[T::row(i)] : everything();
        float weight = exp2_fast(fmaf(products[i][j], scale, -lse[T::row(i)]));
        column[i] = at >= seen.lo && at < seen.hi ? weight : 0;
      }
      weights.write(column, T::walked(j) / 4, j % 4);
    }
    /* B2 */
    clear(products);
    stages.product(slices_of(v.depth, CHUNK), load_d_p, [&](float *stage) { load_keys(0, stage); }, multiply);
    /* B3 */
#pragma unroll
    for (int j = 0; j < T::Walked::COUNT; j++) {
      float column[T::Rows::COUNT];
      weights.read(column, T::walked(j) / 4, j % 4);
#pragma unroll
      for (int i = 0; i < T::Rows::COUNT; i++) column[i] *= products[i][j] - delta[T::row(i)];
      weights.write(column, T::walked(j) / 4, j % 4);
    }
    /* B4 */
    int slices = slices_of(min(WALK, tile.end_key - key), C::SLICE);
    stages.product(
        slices, load_keys,
        [&](float *stage) {
          key += WALK;
          if (key < tile.end_key) load_scores(0, stage);
        },
        [&](int n, const float *stage) { multiply_weights<T, C>(sums, weights, stage, n); });
  }

  int64_t part = (int64_t)tile.split * p.batch * p.hq * p.sq;
#pragma unroll
  for (int i = 0; i < T::Rows::COUNT; i++) {
    int row = T::row(i);
    if (!tile.exists(row)) continue;
    if (a.splits > 1) {
      Target to = float_target((float *)a.partial_out, part + tile.stat(p, row), 0, p.dn + p.dr);
      write_sums<C, IS_FAST>(to, sums[i], T::lane(), tile.first_column, p.softmax_scale);
      continue;
    }
    Target nope = target(p.d_q, p.type, tile.batch, tile.position(row), tile.head(row), 0, p.dn);
    write_sums<C, IS_FAST>(nope, sums[i], T::lane(), tile.first_column, p.softmax_scale);
    if (p.dr == 0) continue;
    Target rope = target(p.d_q_rope, p.type, tile.batch, tile.position(row), tile.head(row), p.dn, p.dr);
    write_sums<C, IS_FAST>(rope, sums[i], T::lane(), tile.first_column, p.softmax_scale);
  }
}

#define DQ(name, rows, lanes, columns, is_fast)                                                           \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) name(const __grid_constant__ MlaArguments a) { \
    using T = Tile<rows, lanes>;                                                                          \
    query_gradient<T, Columns<T, columns>, is_fast>(a);                                                   \
  }

DQ(mla_attention_dq_64, 128, 16, 64, true)
DQ(mla_attention_dq_96, 128, 16, 96, true)
DQ(mla_attention_dq_128, 128, 16, 128, true)
DQ(mla_attention_dq_192, 128, 16, 192, true)
DQ(mla_attention_dq_576, 32, 32, 576, true)
DQ(mla_attention_dq_any_64, 128, 16, 64, false)
DQ(mla_attention_dq_any_96, 128, 16, 96, false)
DQ(mla_attention_dq_any_128, 128, 16, 128, false)
DQ(mla_attention_dq_any_192, 128, 16, 192, false)
DQ(mla_attention_dq_any_576, 32, 32, 576, false)

/* A thread adds up one number of all splits. */
extern "C" __global__ void __launch_bounds__(THREADS) mla_attention_dq_sum(const __grid_constant__ MlaArguments a) {
  const MlaParams &p = a.params;
  int depth = p.dn + p.dr;
  int64_t count = (int64_t)p.batch * p.hq * p.sq * depth, n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (n >= count) return;
  float sum = 0;
  for (int s = 0; s < a.splits; s++) sum += ((const float *)a.partial_out)[s * count + n];
  int64_t row = n / depth;
  int column = n % depth, position = row % p.sq, head = row / p.sq % p.hq, batch = row / p.sq / p.hq;
  const MlaRows &to = column < p.dn ? p.d_q : p.d_q_rope;
  write_element(to.start, p.type,
                batch * to.batch + position * to.position + head * to.head + column - (column < p.dn ? 0 : p.dn), sum);
}
