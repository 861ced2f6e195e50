/* MLADecodeDkv: B2, B3, B5-B7 of gradients/README.md, the cache being key and value in one.

   A block owns BLOCK_K keys and walks over the packed rows that see them, BLOCK_Q at a time, the steps of decode_tile.cuh:
     parts of scoresᵀ = K · Qᵀ (half of the warps) and dPᵀ = V · dOutᵀ (the others)
     Pᵀ = 2^(scores − lse)
     dSᵀ = softmaxScale · P · (dP − delta)    four threads a key; as halves P and dS times a power of two of the key's own
     sums += Pᵀ · dOut + dSᵀ · Q
   in the order of mla_decode.cu. Float rows of dOut come into the range of halves by a power of two of their own, and P is
   divided by it. grid: (tiles of keys, batch). */
#include "decode_tile.cuh"
#include "weight_scale.cuh"

constexpr int DN = MLA_DECODE_DN, DQK = MLA_DECODE_DQK;
constexpr int BLOCK_K = MLA_DECODE_DKV_BLOCK_K, BLOCK_Q = MLA_DECODE_DKV_BLOCK_Q, STAGES = MLA_DECODE_DKV_STAGES;

using Products = Parts<2 * BLOCK_K, BLOCK_Q>; /* scores, then dP */
template <typename T>
using WeightTile = Tile<T, BLOCK_K, 2 * BLOCK_Q>; /* [P | dS] */

/* A tile of rows in shared memory. */
template <typename T>
struct Stage {
  static constexpr int BYTES = Tile<T, BLOCK_Q, DQK>::BYTES + Tile<T, BLOCK_Q, DN>::BYTES, STATS_BYTES = 3 * BLOCK_Q * 4;
  Tile<T, BLOCK_Q, DQK> q;
  Tile<T, BLOCK_Q, DN> d_out;
  unsigned lse, delta, p_scale; /* floats of the rows */

  __device__ Stage(unsigned start, unsigned stats)
      : q{start},
        d_out{q.start + q.BYTES},
        lse(stats),
        delta(lse + BLOCK_Q * 4),
        p_scale(delta + BLOCK_Q * 4) {}
};

/* Sixteen threads a row, chunks c, c + 16, ..: c is this thread's number among them. */
template <typename T>
__device__ inline void copy_d_out(const Stage<T> &stage, const T *d_out, int row, int c, bool is_there) {
#pragma unroll
  for (int i = 0; i < DN / CHUNK / 16; i++)
    copy_chunk<T>(stage.d_out.address(row, c) + i * 256, d_out + (c + i * 16) * CHUNK, is_there);
  if (c == 0) store_shared(stage.p_scale + row * 4, __float_as_uint(1));
}
template <typename T>
__device__ inline void copy_d_out(const Stage<T> &stage, const float *d_out, int row, int c, bool is_there) {
  float numbers[DN / CHUNK / 16][CHUNK] = {}, most = 0;
#pragma unroll
  for (int i = 0; i < DN / CHUNK / 16; i++)
#pragma unroll
    for (int n = 0; n < CHUNK; n++) {
      if (is_there) numbers[i][n] = d_out[(c + i * 16) * CHUNK + n];
      most = fmaxf(most, fabsf(numbers[i][n]));
    }
  const float scale = is_half<T> ? power_of_two_to(0, max_of_lanes<16>(most)) : 1;
#pragma unroll
  for (int i = 0; i < DN / CHUNK / 16; i++) {
    const float(&x)[CHUNK] = numbers[i];
    store_chunk(stage.d_out.address(row, c) + i * 256, pack(x[0] * scale, x[1] * scale, T()),
                pack(x[2] * scale, x[3] * scale, T()), pack(x[4] * scale, x[5] * scale, T()),
                pack(x[6] * scale, x[7] * scale, T()));
  }
  if (c == 0) store_shared(stage.p_scale + row * 4, __float_as_uint(1 / scale));
}

/* The rows [first, first + BLOCK_Q) of queries and dOut, lse and delta, 0 from `end` on. */
template <typename T, typename E>
__device__ inline void copy_stage(const Stage<T> &stage, const MlaParams &p, int batch, int first, int end) {
  const int row = threadIdx.x / 16, c = threadIdx.x % 16;
  const bool is_there = first + row < end;
  const int at = is_there ? first + row : 0;
  const PackedRows<E> q(p.q, p.q_rope, DN, batch, p.hq), d_out(p.d_out, p.d_out, DN, batch, p.hq);
  const auto q_row = q[at];
#pragma unroll
  for (int i = 0; i < DN / CHUNK / 16; i++)
    copy_chunk<T>(stage.q.address(row, c) + i * 256, q_row.at(0) + (c + i * 16) * CHUNK, is_there);
  if (c < (DQK - DN) / CHUNK) copy_chunk<T>(stage.q.address(row, DN / CHUNK + c), q_row.at(DN) + c * CHUNK, is_there);
  copy_d_out<T>(stage, d_out[at].at(0), row, c, is_there);
  if (c == 14) copy_float_async(stage.lse + row * 4, p.lse + stat_index(p, batch, at), is_there);
  if (c == 15) copy_float_async(stage.delta + row * 4, p.delta + stat_index(p, batch, at), is_there);
}

template <typename T>
struct DkvKey {
  Range seen; /* by this thread's key, packed rows */
  float scale;
  WeightScale<T> weight_scale;

  /* P and dS of four rows with the key. Returns what the key's sums so far are to be multiplied by. */
  __device__ float weigh(const Products &parts, const Stage<T> &stage, const WeightTile<T> &weights, int first_row) {
    const int key = threadIdx.x / 4, column = threadIdx.x % 4 * 4;
    const float4 scores = parts.sum(key, column), d_p = parts.sum(BLOCK_K + key, column);
    const float4 lse = load_four(stage.lse + column * 4), delta = load_four(stage.delta + column * 4);
    const float4 p_scale = load_four(stage.p_scale + column * 4);
    float p[4], d_s[4], most = 0;
    auto weigh_row = [&](int i, float score, float d_p, float lse, float delta, float p_scale) {
      const int row = first_row + column + i;
      const bool is_seen = row >= seen.lo && row < seen.hi;
      const float weight = is_seen ? exp2_fast(score * (scale * LOG2_E) - lse * LOG2_E) : 0;
      p[i] = weight * p_scale;
      d_s[i] = is_seen ? weight * (d_p * p_scale - delta) * scale : 0;
      most = fmaxf(most, fmaxf(p[i], fabsf(d_s[i])));
    };
    weigh_row(0, scores.x, d_p.x, lse.x, delta.x, p_scale.x);
    weigh_row(1, scores.y, d_p.y, lse.y, delta.y, p_scale.y);
    weigh_row(2, scores.z, d_p.z, lse.z, delta.z, p_scale.z);
    weigh_row(3, scores.w, d_p.w, lse.w, delta.w, p_scale.w);
    const float factor = weight_scale.template fit<4>(most), by = weight_scale.scale;
    auto store = [&](int at, const float(&x)[4]) {
      store_half_chunk(weights.address(key, at / CHUNK) + at % CHUNK * 2, pack(x[0] * by, x[1] * by, T()),
                       pack(x[2] * by, x[3] * by, T()));
    };
    store(column, p);
    store(BLOCK_Q + column, d_s);
    return factor;
  }
};

template <typename T, typename E>
__device__ inline void dkv(const MlaParams &p) {
  constexpr int STEPS = DQK / 64, VALUE_STEPS = DN / 64, COLUMNS = DN / WARPS;
  static_assert(STAGES * (Stage<T>::BYTES + Stage<T>::STATS_BYTES) + Products::BYTES + 2 * WeightTile<T>::BYTES +
                        BLOCK_K * 4 == MLA_DECODE_DKV_SHARED,
                "as the plan says");
  static_assert(STAGES == 3 && Tile<T, BLOCK_K, DQK>::BYTES <= 2 * Stage<T>::BYTES, "the keys fit into two stages");
  static_assert(BLOCK_K == 32 && BLOCK_Q * 16 == THREADS, "a warp has all keys of one product, sixteen threads copy a row");

  extern __shared__ __align__(128) char shared[];
  const unsigned start = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const Products parts{start};
  const unsigned weights = parts.start + Products::BYTES, stages = weights + 2 * WeightTile<T>::BYTES;
  const unsigned stats = stages + STAGES * Stage<T>::BYTES, factors = stats + STAGES * Stage<T>::STATS_BYTES;
  auto stage_of = [&](unsigned tile) {
    return Stage<T>(stages + tile % STAGES * Stage<T>::BYTES, stats + tile % STAGES * Stage<T>::STATS_BYTES);
  };

  const int first_key = blockIdx.x * BLOCK_K, batch = blockIdx.y;
  const int warp = threadIdx.x / 32, depth_group = warp % DEPTH_GROUPS;
  const bool has_scores = warp < DEPTH_GROUPS, is_weigher = threadIdx.x < BLOCK_K * 4;
  const Visibility visibility(p, batch);
  auto packed = [&](Range queries) { return Range{queries.lo * p.hq, queries.hi * p.hq}; };
  const Range rows = packed(visibility.queries_of_any(first_key, BLOCK_K));
  const int tiles = (max(rows.hi - rows.lo, 0) + BLOCK_Q - 1) / BLOCK_Q;

  auto copy = [&](int tile) {
    if (tile < tiles) copy_stage<T, E>(stage_of(tile), p, batch, rows.lo + tile * BLOCK_Q, rows.hi);
    commit_copies();
  };
  /* the keys come through the stages of the next two tiles */
  const Tile<T, BLOCK_K, DQK> k_tile{stages + Stage<T>::BYTES};
  copy(0);
  stage_rows(k_tile, HeadRows<E>(p.k, p.k_rope, DN, batch, 0), first_key, visibility.kv_length);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  Left<T, BLOCK_K / 16, STEPS> left;
  left.load(k_tile, 0, depth_group);
  __syncthreads();
  copy(1);

  DkvKey<T> own;
  own.seen = packed(visibility.queries_of(first_key + threadIdx.x / 4));
  own.scale = p.softmax_scale;
  float sums[BLOCK_K / 16][COLUMNS / 8][4] = {}, rope_sums[BLOCK_K / 16][1][4] = {};
  float factor = 1;

  /* tile -1 has no sums, and behind the last tile there are no products */
#pragma unroll 1
  for (int tile = -1; tile < tiles; tile++) {
    const bool has_next = tile + 1 < tiles;
    wait_for_copies<STAGES - 3>();
    /* the weights and the next rows are there, and nobody reads the last ones */
    if (__syncthreads_or(factor != 1)) scale_rows(sums, factors), scale_rows(rope_sums, factors);
    factor = 1;
    if (tile >= 0) copy(tile + STAGES - 1);

    /* F1, B2 */
    const Stage<T> next = stage_of(tile + 1);
    if (has_next && has_scores) multiply_parts<STEPS, BLOCK_Q>(parts, left, 0, next.q, 0, depth_group);
    if (has_next && !has_scores) multiply_parts<VALUE_STEPS, BLOCK_Q>(parts, left, BLOCK_K, next.d_out, 0, depth_group);
    __syncthreads(); /* the products are there, and nobody reads the factors */

#pragma unroll 1
    for (int turn = 0; turn < 2; turn++)
      if ((turn == 0) == is_weigher) {
        /* F3, B3, of the next tile */
        if (!has_next || !is_weigher) continue;
        factor = own.weigh(parts, next, WeightTile<T>{weights + (tile + 1) % 2 * WeightTile<T>::BYTES},
                           rows.lo + (tile + 1) * BLOCK_Q);
        if (threadIdx.x % 4 == 0) store_shared(factors + threadIdx.x, __float_as_uint(factor));
      } else if (tile >= 0) {
        /* B5, B6, B7 so far */
        const WeightTile<T> weight_tile{weights + tile % 2 * WeightTile<T>::BYTES};
        const Stage<T> stage = stage_of(tile);
        add_weighted<BLOCK_Q>(sums, weight_tile, 0, stage.d_out, warp * COLUMNS);
        add_weighted<BLOCK_Q>(sums, weight_tile, BLOCK_Q, stage.q, warp * COLUMNS);
        add_weighted<BLOCK_Q>(rope_sums, weight_tile, BLOCK_Q, stage.q, DN + warp * 8);
      }
  }

  if (is_weigher && threadIdx.x % 4 == 0) store_shared(factors + threadIdx.x, __float_as_uint(1 / own.weight_scale.scale));
  __syncthreads();
  scale_rows(sums, factors);
  scale_rows(rope_sums, factors);
  const PackedRows<E> d_k(p.d_k, p.d_k_rope, DN, batch, 1);
  store_rows<E>(sums, p.skv - first_key, [&](int key) { return d_k.at(first_key + key, warp * COLUMNS); });
  store_rows<E>(rope_sums, p.skv - first_key, [&](int key) { return d_k.at(first_key + key, DN + warp * 8); });
}

#define KERNEL(NAME, T, E)                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS) mla_decode_dkv_##NAME(const __grid_constant__ MlaArguments a) {  \
    dkv<T, E>(a.params);                                                                                                 \
  }
KERNEL(f16, __half, __half)
KERNEL(bf16, __nv_bfloat16, __nv_bfloat16)
KERNEL(f32_as_f16, __half, float)
KERNEL(f32_as_bf16, __nv_bfloat16, float)
