/* The gradients of keys and values, MLAAttentionDkv: B2, B3, B5-B7 of gradients/README.md, with P made again from lse.

   A block owns BLOCK_K keys of a key/value head and walks over the queries that see them, BLOCK_Q at a time, of one query
   head of the group after the other; the next tile comes while one is multiplied. A pair of warps owns 32 of the keys, or
   16 (gradient.cuh). Scores are held transposed, keys down: so Pᵀ and dSᵀ come out of products as left sides of the next.
   grid: (batch · hkv, tiles of keys).
   Shared memory: K, V; twice Q, dOut, lse, delta; P, dS and two floats of all pairs.
   partial_out: d_k_rope as floats, [batch, hkv, skv, dr], where all heads share it, or NULL; then a second kernel sums it.
   partial_lse: the power of two that dOut comes multiplied by, or NULL; of split halves, see split_factors.cuh. */
#include "gradient.cuh"
#include "tiles.h"

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_K, int BLOCK_Q>
struct Dkv {
  static constexpr int TILES = row_tiles<T>, PAIR_ROWS = Pair<T>::ROWS, THREADS = BLOCK_K / PAIR_ROWS * 64;
  static constexpr int PART_Q = BLOCK_Q / 2; /* queries whose scores a warp makes */
  static_assert(is_in_a_chunk<T, BLOCK_Q>, "tiles of a walk have one factor");
  using KTile = Tile<T, BLOCK_K, HEAD_QK>;
  using VTile = Tile<T, BLOCK_K, HEAD_V>;
  using QTile = Tile<T, BLOCK_Q, HEAD_QK>;
  using DOutTile = Tile<T, BLOCK_Q, HEAD_V>;
  static constexpr int STAGE_BYTES = QTile::BYTES + DOutTile::BYTES + 2 * BLOCK_Q * 4;
  static constexpr int EXCHANGE_BYTES = 2 * Exchange<T, PART_Q>::WARP_BYTES;

  const MlaArguments &a;
  const MlaParams &p;
  const Pair<T> pair;
  const int batch, kv_head, group, first_key;
  const Visibility visibility;
  const Range seeing;   /* the queries */
  const int walk_start; /* their first tile, which is in line with the chunks of split_factors.cuh */
  const float k_factor, v_factor;
  char *const shared;
  const KTile k_tile;
  const VTile v_tile;
  const Exchange<T, PART_Q> p_exchange, d_s_exchange;
  const unsigned greatest; /* of the pair, for `scale` */

  float d_k[TILES][HEAD_QK / 16][4] = {}, d_v[TILES][HEAD_V / 16][4] = {};
  GradientScale<T> scale;

  __device__ Dkv(const MlaArguments &arguments, char *memory)
      : a(arguments),
        p(arguments.params),
        batch(blockIdx.x / p.hkv),
        kv_head(blockIdx.x % p.hkv),
        group(p.hq / p.hkv),
        first_key(blockIdx.y * BLOCK_K),
        visibility(p, batch),
        seeing(visibility.queries_of_any(first_key, BLOCK_K)),
        walk_start(seeing.lo / BLOCK_Q * BLOCK_Q),
        k_factor(factor_of<T>(a, MLA_SPLIT_K, batch, kv_head, first_key + pair.row())),
        v_factor(factor_of<T>(a, MLA_SPLIT_V, batch, kv_head, first_key + pair.row())),
        shared(memory),
        k_tile{static_cast<unsigned>(__cvta_generic_to_shared(memory))},
        v_tile{k_tile.start + KTile::BYTES},
        p_exchange{stage_of(0) + 2 * STAGE_BYTES + pair.number * 2 * EXCHANGE_BYTES},
        d_s_exchange{p_exchange.start + EXCHANGE_BYTES},
        greatest(stage_of(0) + 2 * STAGE_BYTES + BLOCK_K / PAIR_ROWS * 2 * EXCHANGE_BYTES + pair.number * 8),
        scale(a.partial_lse) {}

  __device__ unsigned stage_of(int step) const { return v_tile.start + VTile::BYTES + step % 2 * STAGE_BYTES; }

  __device__ void copy_keys() const {
    copy_rows<THREADS>(k_tile, HeadRows<T>(p.k, p.k_rope, p.dn, batch, kv_head), first_key, 0, visibility.kv_length);
    copy_rows<THREADS>(v_tile, HeadRows<T>(p.v, p.v, HEAD_V, batch, kv_head), first_key, 0, visibility.kv_length);
  }

  __device__ void copy_queries(int step, int head, int first) const {
    const QTile q_tile{stage_of(step)};
    const DOutTile d_out_tile{q_tile.start + QTile::BYTES};
    copy_rows<THREADS>(q_tile, HeadRows<T>(p.q, p.q_rope, p.dn, batch, head), first, seeing.lo, seeing.hi);
    copy_rows<THREADS>(d_out_tile, HeadRows<T>(p.d_out, p.d_out, HEAD_V, batch, head), first, seeing.lo, seeing.hi);
    if (threadIdx.x < 2 * BLOCK_Q) {
      const float *stats = threadIdx.x < BLOCK_Q ? p.lse : p.delta;
      const int query = first + threadIdx.x % BLOCK_Q;
      const bool is_there = query < seeing.hi;
      copy_float_async(d_out_tile.start + DOutTile::BYTES + threadIdx.x * 4,
                       stats + ((int64_t)batch * p.hq + head) * p.sq + (is_there ? query : 0), is_there);
    }
  }

  __device__ int key_of(int r, int half) const {
    return first_key + pair.row() + r * 16 + half * 8 + threadIdx.x % 32 / 4;
  }

  /* Numbers of queries that do not see the key become 0. */
  __device__ void hide(float (&numbers)[TILES][PART_Q / 8][4], int first_query) const {
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const Range queries = visibility.queries_of(key_of(r, half));
#pragma unroll
        for (int c = 0; c < PART_Q / 8; c++)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int query = first_query + c * 8 + threadIdx.x % 4 * 2 + i;
            if (query < queries.lo || query >= queries.hi) numbers[r][c][half * 2 + i] = 0;
          }
      }
  }

  /* F1, F3. `lse` is that of the warp's queries, the first of which is first_query. */
  __device__ void weigh(float (&weights)[TILES][PART_Q / 8][4], const float2 *lse, int first_query, float q_factor) const {
    const float factor = p.softmax_scale * LOG2_E * k_factor * q_factor;
#pragma unroll
    for (int c = 0; c < PART_Q / 8; c++) {
      const float2 two = lse[c * 4 + threadIdx.x % 4];
      const float less[2] = {scale.WEIGHT_EXPONENT - two.x * LOG2_E, scale.WEIGHT_EXPONENT - two.y * LOG2_E};
#pragma unroll
      for (int r = 0; r < TILES; r++)
#pragma unroll
        for (int i = 0; i < 4; i++) weights[r][c][i] = exp2_fast(weights[r][c][i] * factor + less[i % 2]);
    }
    if (!visibility.is_whole(first_query, PART_Q, first_key + pair.row(), PAIR_ROWS)) hide(weights, first_query);
  }

  /* A tile of queries that begins with first_query; all of it, and its lse and delta, is in shared memory. */
  template <typename COPY>
  __device__ void add_tile(const QTile &q_tile, const DOutTile &d_out_tile, const float2 *lse, const float2 *delta,
                           int head, int first_query, COPY copy_meanwhile) {
    const float q_factor = factor_of<T>(a, MLA_SPLIT_Q, batch, head, first_query);
    const float d_out_factor = factor_of<T>(a, MLA_SPLIT_D_OUT, batch, head, first_query);
    const int own = pair.side * PART_Q, other = PART_Q - own;
    LeftSides<T, PART_Q> weights, d_s;
    {
      float scores[TILES][PART_Q / 8][4] = {};
      multiply_rows(scores, k_tile, pair.row(), q_tile, own);
      copy_meanwhile();
      weigh(scores, lse + own / 2, first_query + own, q_factor);
      weights.pack(scores, p_exchange.of_side(pair.side));
    }
    /* B5 of the own queries */
    multiply_own(d_v, weights, d_out_tile.deep_blocks(own, pair.column()), d_out_factor);
    {
      /* B2, B3 */
      float d_p[TILES][PART_Q / 8][4] = {};
      multiply_rows(d_p, v_tile, pair.row(), d_out_tile, own);
#pragma unroll
      for (int c = 0; c < PART_Q / 8; c++) {
        const float2 two = delta[own / 2 + c * 4 + threadIdx.x % 4];
        const float factor = v_factor * d_out_factor;
        const float2 less = make_float2(scale.scale_delta(two.x), scale.scale_delta(two.y));
#pragma unroll
        for (int r = 0; r < TILES; r++)
#pragma unroll
          for (int half = 0; half < 2; half++) {
            const float2 weight = weights.get(r, c, half);
            d_p[r][c][half * 2] = weight.x * (d_p[r][c][half * 2] * factor - less.x);
            d_p[r][c][half * 2 + 1] = weight.y * (d_p[r][c][half * 2 + 1] * factor - less.y);
          }
      }
      scale.fit(pair, greatest, d_p, d_k);
      d_s.pack(d_p, d_s_exchange.of_side(pair.side));
    }
    /* B6, B7 of the own queries, then all of the other warp's */
    multiply_own(d_k, d_s, q_tile.deep_blocks(own, pair.column()), q_factor * scale.own_factor());
    pair.sync();
    multiply_other(d_v, p_exchange.of_side(1 - pair.side), d_out_tile.deep_blocks(other, pair.column()), d_out_factor);
    multiply_other(d_k, d_s_exchange.of_side(1 - pair.side), q_tile.deep_blocks(other, pair.column()),
                   q_factor * scale.other_factor(pair, greatest));
  }

  __device__ void walk() {
    const int tiles = seeing.hi > seeing.lo ? (seeing.hi - walk_start + BLOCK_Q - 1) / BLOCK_Q : 0;
    const int steps = tiles * group;
    const Range of_pair = visibility.queries_of_any(first_key + pair.row(), PAIR_ROWS);
    if (steps == 0) return;
    copy_keys();
    int head = kv_head * group, next = walk_start;
    copy_queries(0, head, next);
    commit_copies();
    for (int step = 0; step < steps; step++) {
      const int of_head = head, first_query = next;
      next += BLOCK_Q;
      if (next >= seeing.hi) head++, next = walk_start;
      wait_for_copies<0>();
      __syncthreads(); /* this tile is there, and nobody reads the one before it, nor what was exchanged */
      const bool is_hidden = first_query >= of_pair.hi || first_query + BLOCK_Q <= of_pair.lo;
      const bool copies_first = is_hidden || pair.number < BLOCK_K / PAIR_ROWS / 2;
      const auto copy_next = [&](bool is_mine) {
        if (is_mine && step + 1 < steps) copy_queries(step + 1, head, next);
        commit_copies();
      };
      copy_next(copies_first);
      if (is_hidden) { /* all threads pass as many barriers, else racecheck takes one for another */
        scale.sync_only(pair);
        pair.sync();
        continue;
      }
      const QTile q_tile{stage_of(step)};
      const DOutTile d_out_tile{q_tile.start + QTile::BYTES};
      const float2 *lse = reinterpret_cast<const float2 *>(shared + (d_out_tile.start + DOutTile::BYTES - k_tile.start));
      add_tile(q_tile, d_out_tile, lse, lse + BLOCK_Q / 2, of_head, first_query, [&] { copy_next(!copies_first); });
    }
  }

  __device__ void store() const {
    const float factor = p.softmax_scale * scale.gradient_factor();
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int key = key_of(r, half);
        if (key >= p.skv) continue;
        float *partial = static_cast<float *>(a.partial_out);
        if (partial) partial += (((int64_t)batch * p.hkv + kv_head) * p.skv + key) * p.dr;
        const ResultRow d_k_row = {row_of(p.d_k, p.type, batch, key, kv_head), p.type,
                                   partial ? partial : row_of(p.d_k_rope, p.type, batch, key, kv_head),
                                   partial ? MLA_FLOAT32 : p.type, p.dn};
        store_row<T>(d_k_row, d_k[r], half, factor, pair);
        void *d_v_start = row_of(p.d_v, p.type, batch, key, kv_head);
        store_row<T>({d_v_start, p.type, d_v_start, p.type, HEAD_V}, d_v[r], half, scale.weight_factor(), pair);
      }
  }
};

/* d_k_rope of all heads: the sums of the partial ones. A thread sums four columns of a position. */
extern "C" __global__ void mla_attention_dkv_rope(const __grid_constant__ MlaArguments a) {
  const MlaParams &p = a.params;
  const int quads = p.dr / 4;
  const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (thread >= (int64_t)p.batch * p.skv * quads) return;
  const int column = thread % quads * 4, key = thread / quads % p.skv, batch = thread / quads / p.skv;
  const int64_t head_quads = (int64_t)p.skv * quads;
  const float4 *partial = static_cast<const float4 *>(a.partial_out) + batch * (p.hkv - 1) * head_quads + thread;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
  for (int head = 0; head < p.hkv; head++) {
    const float4 four = __ldg(partial + head * head_quads);
    sum = make_float4(sum.x + four.x, sum.y + four.y, sum.z + four.z, sum.w + four.w);
  }
  void *row = row_of(p.d_k_rope, p.type, batch, key, 0);
  if (p.type == MLA_FLOAT16) {
    store_pair<__half>(row, p.type, column, sum.x, sum.y);
    store_pair<__half>(row, p.type, column + 2, sum.z, sum.w);
  } else {
    store_pair<__nv_bfloat16>(row, p.type, column, sum.x, sum.y);
    store_pair<__nv_bfloat16>(row, p.type, column + 2, sum.z, sum.w);
  }
}

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_K, int BLOCK_Q>
__device__ inline void run(const MlaArguments &a) {
  extern __shared__ __align__(128) char shared[];
  Dkv<T, HEAD_QK, HEAD_V, BLOCK_K, BLOCK_Q> dkv(a, shared);
  dkv.walk();
  dkv.store();
}

#define ENTRY(TYPE, T, HEAD_QK, HEAD_V, BLOCK_K, BLOCK_Q)                                                               \
  extern "C" __global__ void __launch_bounds__(BLOCK_K / Pair<T>::ROWS * 64, 1)                                         \
      mla_attention_dkv_##TYPE##_##HEAD_QK##_##HEAD_V##_##BLOCK_K##_##BLOCK_Q(const __grid_constant__ MlaArguments a) { \
    run<T, HEAD_QK, HEAD_V, BLOCK_K, BLOCK_Q>(a);                                                                       \
  }
#define HALF_KERNELS(...) ENTRY(f16, __half, __VA_ARGS__) ENTRY(bf16, __nv_bfloat16, __VA_ARGS__)
MLA_SM80_BACKWARD(HALF_KERNELS)
#define TF32_KERNEL(...) ENTRY(tf32, Tf32, __VA_ARGS__)
MLA_SM80_BACKWARD_TF32(TF32_KERNEL)
#define F32_KERNEL(...) ENTRY(f32, SplitHalf, __VA_ARGS__)
MLA_SM80_BACKWARD_F32(F32_KERNEL)
