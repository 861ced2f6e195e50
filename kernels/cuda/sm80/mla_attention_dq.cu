/* The gradient of queries, MLAAttentionDq: B2-B4 of gradients/README.md, with P made again from lse.

   A block owns BLOCK_Q queries of a head and walks over the keys that they see, BLOCK_K at a time; the next tile comes
   while one is multiplied. A pair of warps owns 32 of the queries, or 16 (gradient.cuh).
   grid: (batch · hq, tiles of queries), the queries that see most first.
   Shared memory: Q, dOut; twice K, V; dS and two floats of all pairs.
   partial_lse: the power of two that dOut comes multiplied by, or NULL; of split halves, see split_factors.cuh. */
#include "gradient.cuh"
#include "tiles.h"

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K>
struct Dq {
  static constexpr int TILES = row_tiles<T>, PAIR_ROWS = Pair<T>::ROWS, THREADS = BLOCK_Q / PAIR_ROWS * 64;
  static constexpr int PART_K = BLOCK_K / 2; /* keys whose scores a warp makes */
  static_assert(is_in_a_chunk<T, BLOCK_K>, "tiles of a walk have one factor");
  using QTile = Tile<T, BLOCK_Q, HEAD_QK>;
  using DOutTile = Tile<T, BLOCK_Q, HEAD_V>;
  using KTile = Tile<T, BLOCK_K, HEAD_QK>;
  using VTile = Tile<T, BLOCK_K, HEAD_V>;
  static constexpr int STAGE_BYTES = KTile::BYTES + VTile::BYTES;
  static constexpr int EXCHANGE_BYTES = 2 * Exchange<T, PART_K>::WARP_BYTES;

  const MlaArguments &a;
  const MlaParams &p;
  const Pair<T> pair;
  const int batch, head, kv_head, first_query;
  const Visibility visibility;
  const Range seen;     /* the keys */
  const int walk_start; /* their first tile, which is in line with the chunks of split_factors.cuh */
  const float q_factor, d_out_factor;
  const QTile q_tile;
  const DOutTile d_out_tile;
  const Exchange<T, PART_K> exchange;
  const unsigned greatest; /* of the pair, for `scale` */

  float lse[TILES][2], delta[TILES][2]; /* [tile of 16 rows][half] */
  float d_q[TILES][HEAD_QK / 16][4] = {};
  GradientScale<T> scale;

  __device__ Dq(const MlaArguments &arguments, char *memory)
      : a(arguments),
        p(a.params),
        batch(blockIdx.x / p.hq),
        head(blockIdx.x % p.hq),
        kv_head(head / (p.hq / p.hkv)),
        first_query((gridDim.y - 1 - blockIdx.y) * BLOCK_Q),
        visibility(p, batch),
        seen(visibility.keys_of_any(first_query, BLOCK_Q)),
        walk_start(seen.lo / BLOCK_K * BLOCK_K),
        q_factor(factor_of<T>(a, MLA_SPLIT_Q, batch, head, first_query + pair.row())),
        d_out_factor(factor_of<T>(a, MLA_SPLIT_D_OUT, batch, head, first_query + pair.row())),
        q_tile{static_cast<unsigned>(__cvta_generic_to_shared(memory))},
        d_out_tile{q_tile.start + QTile::BYTES},
        exchange{k_tile(0).start + 2 * STAGE_BYTES + pair.number * EXCHANGE_BYTES},
        greatest(k_tile(0).start + 2 * STAGE_BYTES + BLOCK_Q / PAIR_ROWS * EXCHANGE_BYTES + pair.number * 8),
        scale(a.partial_lse) {
#pragma unroll
    for (int i = 0; i < TILES * 2; i++) {
      const int query = query_of(i / 2, i % 2);
      const bool is_there = query < visibility.q_length;
      const int64_t stat = ((int64_t)batch * p.hq + head) * p.sq + query;
      lse[i / 2][i % 2] = is_there ? p.lse[stat] : 0;
      delta[i / 2][i % 2] = is_there ? scale.scale_delta(p.delta[stat]) : 0;
    }
  }

  __device__ int query_of(int r, int half) const {
    return first_query + pair.row() + r * 16 + half * 8 + threadIdx.x % 32 / 4;
  }

  __device__ KTile k_tile(int tile) const { return {d_out_tile.start + DOutTile::BYTES + tile % 2 * STAGE_BYTES}; }
  __device__ VTile v_tile(int tile) const { return {k_tile(tile).start + KTile::BYTES}; }

  __device__ void copy_queries() const {
    const int length = visibility.q_length;
    copy_rows<THREADS>(q_tile, HeadRows<T>(p.q, p.q_rope, p.dn, batch, head), first_query, 0, length);
    copy_rows<THREADS>(d_out_tile, HeadRows<T>(p.d_out, p.d_out, HEAD_V, batch, head), first_query, 0, length);
  }
  __device__ void copy_keys(int tile) const {
    const int first = walk_start + tile * BLOCK_K;
    copy_rows<THREADS>(k_tile(tile), HeadRows<T>(p.k, p.k_rope, p.dn, batch, kv_head), first, seen.lo, seen.hi);
    copy_rows<THREADS>(v_tile(tile), HeadRows<T>(p.v, p.v, HEAD_V, batch, kv_head), first, seen.lo, seen.hi);
  }

  /* Numbers of keys that the query does not see become 0. */
  __device__ void hide(float (&numbers)[TILES][PART_K / 8][4], int first_key) const {
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const Range keys = visibility.keys_of(query_of(r, half));
#pragma unroll
        for (int c = 0; c < PART_K / 8; c++)
#pragma unroll
          for (int i = 0; i < 2; i++) {
            const int key = first_key + c * 8 + threadIdx.x % 4 * 2 + i;
            if (key < keys.lo || key >= keys.hi) numbers[r][c][half * 2 + i] = 0;
          }
      }
  }

  /* F1, F3 of the warp's keys, the first of which is first_key. */
  __device__ void weigh(float (&weights)[TILES][PART_K / 8][4], int first_key) const {
    const float factor = p.softmax_scale * LOG2_E * q_factor * factor_of<T>(a, MLA_SPLIT_K, batch, kv_head, first_key);
#pragma unroll
    for (int r = 0; r < TILES; r++) {
      const float less[2] = {scale.WEIGHT_EXPONENT - lse[r][0] * LOG2_E, scale.WEIGHT_EXPONENT - lse[r][1] * LOG2_E};
#pragma unroll
      for (int c = 0; c < PART_K / 8; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) weights[r][c][i] = exp2_fast(weights[r][c][i] * factor + less[i / 2]);
    }
    if (!visibility.is_whole(first_query + pair.row(), PAIR_ROWS, first_key, PART_K)) hide(weights, first_key);
  }

  /* A tile of keys that begins with first_key; all of it is in shared memory. */
  template <typename COPY>
  __device__ void add_tile(const KTile &keys, const VTile &values, int first_key, COPY copy_meanwhile) {
    const int own = pair.side * PART_K, other = PART_K - own;
    float weights[TILES][PART_K / 8][4] = {};
    multiply_rows(weights, q_tile, pair.row(), keys, own);
    copy_meanwhile();
    weigh(weights, first_key + own);
    /* B2, B3 */
    const float v_factor = d_out_factor * factor_of<T>(a, MLA_SPLIT_V, batch, kv_head, first_key);
    float d_p[TILES][PART_K / 8][4] = {};
    multiply_rows(d_p, d_out_tile, pair.row(), values, own);
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int c = 0; c < PART_K / 8; c++)
#pragma unroll
        for (int i = 0; i < 4; i++) d_p[r][c][i] = weights[r][c][i] * (d_p[r][c][i] * v_factor - delta[r][i / 2]);
    scale.fit(pair, greatest, d_p, d_q);
    LeftSides<T, PART_K> d_s;
    d_s.pack(d_p, exchange.of_side(pair.side));
    /* B4 */
    const float k_factor = factor_of<T>(a, MLA_SPLIT_K, batch, kv_head, first_key);
    multiply_own(d_q, d_s, keys.deep_blocks(own, pair.column()), k_factor * scale.own_factor());
    pair.sync();
    multiply_other(d_q, exchange.of_side(1 - pair.side), keys.deep_blocks(other, pair.column()),
                   k_factor * scale.other_factor(pair, greatest));
  }

  __device__ void walk() {
    const int tiles = seen.hi > seen.lo ? (seen.hi - walk_start + BLOCK_K - 1) / BLOCK_K : 0;
    const Range of_pair = visibility.keys_of_any(first_query + pair.row(), PAIR_ROWS);
    if (tiles == 0) return;
    copy_queries();
    copy_keys(0);
    commit_copies();
    for (int tile = 0; tile < tiles; tile++) {
      wait_for_copies<0>();
      __syncthreads(); /* this tile is there, and nobody reads the one before it, nor what was exchanged */
      const int first_key = walk_start + tile * BLOCK_K;
      const bool is_hidden = first_key >= of_pair.hi || first_key + BLOCK_K <= of_pair.lo;
      const bool copies_first = is_hidden || pair.number < BLOCK_Q / PAIR_ROWS / 2;
      const auto copy_next = [&](bool is_mine) {
        if (is_mine && tile + 1 < tiles) copy_keys(tile + 1);
        commit_copies();
      };
      copy_next(copies_first);
      if (is_hidden) { /* all threads pass as many barriers, else racecheck takes one for another */
        scale.sync_only(pair);
        pair.sync();
        continue;
      }
      add_tile(k_tile(tile), v_tile(tile), first_key, [&] { copy_next(!copies_first); });
    }
  }

  __device__ void store() const {
    const float factor = p.softmax_scale * scale.gradient_factor();
#pragma unroll
    for (int r = 0; r < TILES; r++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int query = query_of(r, half);
        if (query >= p.sq) continue;
        const ResultRow row = {row_of(p.d_q, p.type, batch, query, head), p.type,
                               row_of(p.d_q_rope, p.type, batch, query, head), p.type, p.dn};
        store_row<T>(row, d_q[r], half, factor, pair);
      }
  }
};

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K>
__device__ inline void run(const MlaArguments &a) {
  extern __shared__ __align__(128) char shared[];
  Dq<T, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K> dq(a, shared);
  dq.walk();
  dq.store();
}

#define ENTRY(TYPE, T, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K)                                                              \
  extern "C" __global__ void __launch_bounds__(BLOCK_Q / Pair<T>::ROWS * 64, 1)                                        \
      mla_attention_dq_##TYPE##_##HEAD_QK##_##HEAD_V##_##BLOCK_Q##_##BLOCK_K(const __grid_constant__ MlaArguments a) { \
    run<T, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K>(a);                                                                      \
  }
#define HALF_KERNELS(...) ENTRY(f16, __half, __VA_ARGS__) ENTRY(bf16, __nv_bfloat16, __VA_ARGS__)
MLA_SM80_BACKWARD(HALF_KERNELS)
#define TF32_KERNEL(...) ENTRY(tf32, Tf32, __VA_ARGS__)
MLA_SM80_BACKWARD_TF32(TF32_KERNEL)
#define F32_KERNEL(...) ENTRY(f32, SplitHalf, __VA_ARGS__)
MLA_SM80_BACKWARD_F32(F32_KERNEL)
