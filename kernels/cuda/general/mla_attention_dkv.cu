/* MLAAttentionDkv and MLADecodeDkv, B2, B3, B5-B7 of gradients/README.md. A block owns some keys and walks over the
   rows that see them, of all query heads that read their head, packed as in query_tile.cuh; all products are
   transposed:
     scoresᵀ = K·Qᵀ → Pᵀ = exp(scores − lse) → dV += Pᵀ·dOut
     dPᵀ = V·dOutᵀ → dSᵀ = P·(dP − delta) → dK += dSᵀ·Q
   The rope part of dK is summed over the heads: partial_out is [hkv, batch, skv, dr] where there are several of them,
   and mla_attention_dkv_rope adds them up. In decode the latent is key and value, and one sum takes both. */
#include "../plan.h"
#include "../visibility.cuh"
#include "results.cuh"

/* The keys that a block owns, and the packed rows that see them. */
struct KeyTile {
  int batch, kv_head, group;
  int q_length, kv_length;
  int first_key, keys; /* `keys` of all tiles */
  int part;            /* of the columns of the results */
  int first_row, end_row;
  Range seeing_all; /* rows; empty if there are keys that no row sees */

  __device__ __forceinline__ bool exists(int key) const { return first_key + key < keys; }
  __device__ __forceinline__ bool is_masked(int row) const {
    return row < seeing_all.lo || row + WALK > seeing_all.hi;
  }
  __device__ __forceinline__ Range rows_of(const MlaParams &p, int key) const {
    Range rows = Visibility(p, q_length, kv_length).queries_of(first_key + key);
    return {min(rows.lo, q_length) * group, max(rows.hi, 0) * group};
  }
};

/* The first keys, which most rows see under a causal mask, come first. */
template <int KEYS>
static __device__ __forceinline__ KeyTile key_tile(const MlaParams &p, int parts) {
  KeyTile t;
  int unit = blockIdx.x, pairs = p.batch * p.hkv;
  t.part = unit % parts;
  unit /= parts;
  t.batch = unit % pairs / p.hkv;
  t.kv_head = unit % p.hkv;
  t.group = p.hq / p.hkv;
  t.keys = p.skv;
  t.first_key = unit / pairs * KEYS;
  t.q_length = clamp_length(p.q_lengths, t.batch, p.sq);
  t.kv_length = clamp_length(p.kv_lengths, t.batch, p.skv);

  int last_key = min(t.first_key + KEYS, t.kv_length) - 1;
  Range first = t.rows_of(p, 0), last = t.rows_of(p, max(last_key - t.first_key, 0));
  t.seeing_all = {last.lo, last_key == t.first_key + KEYS - 1 ? first.hi : 0};
  t.first_row = first.lo;
  t.end_row = last.hi;
  return t;
}

/* lse[WALK], then delta[WALK], of the rows of a walked tile; zeros for those past the length. */
static __device__ __forceinline__ void stage_stats(float *lse, const MlaParams &p, const KeyTile &tile, int first_row) {
  for (int n = threadIdx.x; n < WALK; n += THREADS) {
    int row = first_row + n, position = row / tile.group, head = tile.kv_head * tile.group + row % tile.group;
    bool exists = position < tile.q_length;
    int64_t stat = ((int64_t)tile.batch * p.hq + head) * p.sq + position;
    copy_floats<1>(lse + n, exists ? p.lse + stat : p.lse, exists);
    copy_floats<1>(lse + WALK + n, exists ? p.delta + stat : p.delta, exists);
  }
}

/* A block owns T::ROWS keys, CK::COLUMNS columns of dK and CV::COLUMNS of dV, or in decode the same columns of both. */
template <class T, class CK, class CV, bool IS_DECODE, bool IS_FAST>
static __device__ __forceinline__ void key_value_gradient(const MlaArguments &a) {
  constexpr int MOST_COLUMNS = CK::COLUMNS > CV::COLUMNS ? CK::COLUMNS : CV::COLUMNS;
  constexpr int STAGE = MLA_GENERAL_STAGE(T::ROWS, MOST_COLUMNS), WEIGHTS = T::ROWS * WALK;
  extern __shared__ float4 shared[];
  Weights<T> weights = {(float *)shared};
  Range *ranges = (Range *)(weights.memory + WEIGHTS + 2 * STAGE);
  float *stats = (float *)(ranges + T::ROWS); /* of two walked tiles, in turn: lse and delta */
  Stages<STAGE> stages = {weights.memory + WEIGHTS, 0};

  const MlaParams &p = a.params;
  int depth = p.dn + p.dr;
  KeyTile tile = key_tile<T::ROWS>(p, max(slices_of(depth, CK::COLUMNS), slices_of(p.dv, CV::COLUMNS)));
  Operand q = query_operand(p, tile.batch, tile.kv_head, tile.q_length);
  Operand d_out = d_out_operand(p, tile.batch, tile.kv_head, tile.q_length);
  Operand k = key_operand(p, tile.batch, tile.kv_head, tile.kv_length);
  Operand v = value_operand(p, tile.batch, tile.kv_head, tile.kv_length);
  int k_column = tile.part * CK::COLUMNS, v_column = tile.part * CV::COLUMNS;
  for (int key = threadIdx.x; key < T::ROWS; key += THREADS) ranges[key] = tile.rows_of(p, key);

  float d_k[T::Rows::COUNT][CK::COUNT], d_v[T::Rows::COUNT][CV::COUNT];
  clear(d_k);
  clear(d_v);

  int row = tile.first_row, turn = 0;
  float scale = p.softmax_scale * LOG2_E;
  auto load_scores = [&](int n, float *stage) {
    stage_chunk<IS_FAST, T::ROWS>(stage, k, tile.first_key, n * CHUNK);
    stage_chunk<IS_FAST, WALK>(stage + MLA_GENERAL_CHUNK_FLOATS(T::ROWS), q, row, n * CHUNK);
  };
  auto load_d_p = [&](int n, float *stage) {
    stage_chunk<IS_FAST, T::ROWS>(stage, v, tile.first_key, n * CHUNK);
    stage_chunk<IS_FAST, WALK>(stage + MLA_GENERAL_CHUNK_FLOATS(T::ROWS), d_out, row, n * CHUNK);
  };
  auto load_queries = [&](int n, float *stage) {
    stage_rows<IS_FAST, CK::SLICE, CK::COLUMNS>(stage, q, row + n * CK::SLICE, k_column);
  };
  auto load_d_out = [&](int n, float *stage) {
    stage_rows<IS_FAST, CV::SLICE, CV::COLUMNS>(stage, d_out, row + n * CV::SLICE, v_column);
  };
  if (row < tile.end_row) {
    stages.begin(load_scores);
    stage_stats(stats, p, tile, row);
  }
  while (row < tile.end_row) {
    const float *lse = stats + turn * 2 * WALK, *delta = lse + WALK;
    int count = min(WALK, tile.end_row - row);
    float products[T::Rows::COUNT][T::Walked::COUNT];
    auto multiply = [&](int, const float *stage) { multiply_rows<T>(products, stage); };
    /* F1 */
    clear(products);
    stages.product(slices_of(depth, CHUNK), load_scores, [&](float *stage) { load_d_out(0, stage); }, multiply);
    /* F3 */
    bool is_masked = tile.is_masked(row);
#pragma unroll
    for (int j = 0; j < T::Walked::COUNT; j++) {
      int at = row + T::walked(j);
      float row_lse = lse[T::walked(j)] * LOG2_E, column[T::Rows::COUNT];
#pragma unroll
      for (int i = 0; i < T::Rows::COUNT; i++) {
        Range seeing = is_masked ? ranges[T::row(i)] : everything();
        float weight = exp2_fast(fmaf(products[i][j], scale, -row_lse));
        column[i] = at >= seeing.lo && at < seeing.hi ? weight : 0;
      }
      weights.write(column, T::walked(j) / 4, j % 4);
    }
    /* B5 */
    stages.product(
        slices_of(count, CV::SLICE), load_d_out, [&](float *stage) { load_d_p(0, stage); },
        [&](int n, const float *stage) {
          if constexpr (IS_DECODE) multiply_weights<T, CK>(d_k, weights, stage, n);
          else multiply_weights<T, CV>(d_v, weights, stage, n);
        });
    /* B2 */
    clear(products);
    stages.product(slices_of(p.dv, CHUNK), load_d_p, [&](float *stage) { load_queries(0, stage); }, multiply);
    /* B3; a thread reads back what it wrote */
#pragma unroll
    for (int j = 0; j < T::Walked::COUNT; j++) {
      float row_delta = delta[T::walked(j)], column[T::Rows::COUNT];
      weights.read(column, T::walked(j) / 4, j % 4);
#pragma unroll
      for (int i = 0; i < T::Rows::COUNT; i++) column[i] *= (products[i][j] - row_delta) * p.softmax_scale;
      weights.write(column, T::walked(j) / 4, j % 4);
    }
    /* B6, B7 */
    stages.product(
        slices_of(count, CK::SLICE), load_queries,
        [&](float *stage) {
          row += WALK;
          turn ^= 1;
          if (row >= tile.end_row) return;
          load_scores(0, stage);
          stage_stats(stats + turn * 2 * WALK, p, tile, row);
        },
        [&](int n, const float *stage) { multiply_weights<T, CK>(d_k, weights, stage, n); });
  }

#pragma unroll
  for (int i = 0; i < T::Rows::COUNT; i++) {
    if (!tile.exists(T::row(i))) continue;
    int key = tile.first_key + T::row(i);
    Target nope = target(p.d_k, p.type, tile.batch, key, tile.kv_head, 0, p.dn);
    write_sums<CK, IS_FAST>(nope, d_k[i], T::lane(), k_column, 1);
    if constexpr (!IS_DECODE) {
      Target value = target(p.d_v, p.type, tile.batch, key, tile.kv_head, 0, p.dv);
      write_sums<CV, IS_FAST>(value, d_v[i], T::lane(), v_column, 1);
    }
    if (p.dr == 0) continue;
    int64_t part = ((int64_t)tile.kv_head * p.batch + tile.batch) * p.skv + key;
    Target rope = p.hkv > 1 ? float_target((float *)a.partial_out, part, p.dn, p.dr)
                            : target(p.d_k_rope, p.type, tile.batch, key, 0, p.dn, p.dr);
    write_sums<CK, IS_FAST>(rope, d_k[i], T::lane(), k_column, 1);
  }
}

#define DKV(name, rows, lanes, k_columns, v_columns, is_decode, is_fast)                                   \
  extern "C" __global__ void __launch_bounds__(THREADS, 1) name(const __grid_constant__ MlaArguments a) {  \
    using T = Tile<rows, lanes>;                                                                           \
    key_value_gradient<T, Columns<T, k_columns>, Columns<T, v_columns>, is_decode, is_fast>(a);            \
  }

DKV(mla_attention_dkv_64_64, 128, 16, 64, 64, false, true)
DKV(mla_attention_dkv_96_64, 128, 16, 96, 64, false, true)
DKV(mla_attention_dkv_128_128, 96, 16, 128, 128, false, true)
DKV(mla_attention_dkv_192_128, 96, 16, 192, 128, false, true)
DKV(mla_decode_dkv_576, 32, 32, 576, 576, true, true)
DKV(mla_attention_dkv_any_64_64, 128, 16, 64, 64, false, false)
DKV(mla_attention_dkv_any_96_64, 128, 16, 96, 64, false, false)
DKV(mla_attention_dkv_any_128_128, 96, 16, 128, 128, false, false)
DKV(mla_attention_dkv_any_192_128, 96, 16, 192, 128, false, false)
DKV(mla_decode_dkv_any_576, 32, 32, 576, 576, true, false)

/* A thread adds up one number of all heads. */
extern "C" __global__ void __launch_bounds__(THREADS) mla_attention_dkv_rope(const __grid_constant__ MlaArguments a) {
  const MlaParams &p = a.params;
  int64_t count = (int64_t)p.batch * p.skv * p.dr, n = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (n >= count) return;
  float sum = 0;
  for (int head = 0; head < p.hkv; head++) sum += ((const float *)a.partial_out)[head * count + n];
  int64_t row = n / p.dr;
  int batch = row / p.skv, key = row % p.skv, column = n % p.dr;
  write_element(p.d_k_rope.start, p.type, batch * p.d_k_rope.batch + key * p.d_k_rope.position + column, sum);
}
