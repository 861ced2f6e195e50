/* MLAAttention: F1-F4 of gradients/README.md with the softmax online (FlashAttention-2, arXiv:2307.08691, algorithm 1).

   A block owns BLOCK_Q queries of a head and walks over the keys that they see, BLOCK_K at a time, from the last to the
   first. A warp owns BLOCK_Q / WARPS of the queries: their scores, weights and sums stay in its registers. While a tile of
   keys is multiplied the values come, and while the values are multiplied the next keys do.
   grid: (batch · hq, tiles of queries), the queries that see most first. Shared memory: Q, K, V.
   partial_lse: of split halves, see split_factors.cuh. */
#include "../plan.h"
#include "../visibility.cuh"
#include "products.cuh"
#include "results.cuh"
#include "softmax.cuh"
#include "split_factors.cuh"
#include "tiles.h"

/* sums += P·V; of split halves, factor · P·V. */
template <typename T, int ROWS, int BLOCK_K, int HEAD_V>
__device__ inline void add_weighted_values(float (&sums)[ROWS][HEAD_V / 8][4],
                                           const float (&weights)[ROWS][BLOCK_K / 8][4],
                                           const Tile<T, BLOCK_K, HEAD_V> &v_tile, float factor) {
  const auto add = [&](auto &to, int first_group) {
#pragma unroll
    for (int key = 0; key < BLOCK_K; key += depth_of<T>) {
      unsigned left[ROWS][registers_of<T>];
#pragma unroll
      for (int r = 0; r < ROWS; r++) pack_left<T>(left[r], weights[r], key);
      multiply_left<16>(to, left, v_tile.deep_blocks(key), 0, first_group);
    }
  };
  if constexpr (is_split<T>) {
    constexpr int GROUPS = 4 / ROWS; /* of a part */
#pragma unroll
    for (int group = 0; group < HEAD_V / 8; group += GROUPS) {
      float part[ROWS][GROUPS][4] = {};
      add(part, group);
      add_part(sums, group, part, factor);
    }
  } else {
    add(sums, 0);
  }
}

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int WARPS>
__device__ inline void attend(const MlaArguments &a) {
  constexpr int THREADS = WARPS * 32;
  constexpr int ROWS = BLOCK_Q / WARPS / 16; /* tiles of 16 queries a warp */
  static_assert(is_in_a_chunk<T, BLOCK_K>, "tiles of a walk have one factor");
  using QTile = Tile<T, BLOCK_Q, HEAD_QK>;
  using KTile = Tile<T, BLOCK_K, HEAD_QK>;
  using VTile = Tile<T, BLOCK_K, HEAD_V>;

  const MlaParams &p = a.params;
  extern __shared__ __align__(128) char shared[];
  unsigned start = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const QTile q_tile{start};
  const KTile k_tile{start + QTile::BYTES};
  const VTile v_tile{start + QTile::BYTES + KTile::BYTES};

  const int batch = blockIdx.x / p.hq, head = blockIdx.x % p.hq, kv_head = head / (p.hq / p.hkv);
  const int first_query = (gridDim.y - 1 - blockIdx.y) * BLOCK_Q;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * ROWS * 16;
  const Visibility visibility(p, batch);
  const Range seen = visibility.keys_of_any(first_query, BLOCK_Q);

  const HeadRows<T> q(p.q, p.q_rope, p.dn, batch, head);
  const HeadRows<T> k(p.k, p.k_rope, p.dn, batch, kv_head);
  const HeadRows<T> v(p.v, p.v, HEAD_V, batch, kv_head);

  float sums[ROWS][HEAD_V / 8][4] = {};
  RowState<ROWS> state;
  /* of split halves, scores are multiplied tile by tile */
  const float q_factor = factor_of<T>(a, MLA_SPLIT_Q, batch, head, first_query + warp_row);
  const float scale = is_split<T> ? 1 : p.softmax_scale;

  const int walk_start = seen.lo / BLOCK_K * BLOCK_K;
  const int tiles = seen.hi > seen.lo ? (seen.hi - walk_start + BLOCK_K - 1) / BLOCK_K : 0;
  if (tiles > 0) {
    copy_rows<THREADS>(q_tile, q, first_query, 0, p.sq);
    copy_rows<THREADS>(k_tile, k, walk_start + (tiles - 1) * BLOCK_K, seen.lo, seen.hi);
    commit_copies();
  }
  for (int tile = tiles - 1; tile >= 0; tile--) {
    const int first_key = walk_start + tile * BLOCK_K;
    wait_for_copies<0>();
    __syncthreads(); /* the keys are there, and nobody reads the last values */
    copy_rows<THREADS>(v_tile, v, first_key, seen.lo, seen.hi);
    commit_copies();

    /* F1 */
    float scores[ROWS][BLOCK_K / 8][4] = {};
    multiply_rows(scores, q_tile, warp_row, k_tile, 0);
    if constexpr (is_split<T>)
      multiply_all(scores, p.softmax_scale * q_factor * factor_of<T>(a, MLA_SPLIT_K, batch, kv_head, first_key));

    wait_for_copies<0>();
    __syncthreads(); /* the values are there, and nobody reads the keys */
    if (tile > 0) {
      copy_rows<THREADS>(k_tile, k, first_key - BLOCK_K, seen.lo, seen.hi);
      commit_copies();
    }

    /* F2, F3 so far */
    if (!visibility.is_whole(first_query, BLOCK_Q, first_key, BLOCK_K))
      hide(scores, visibility, first_query + warp_row, first_key);
    state.weigh(scores, scale, sums);
    /* F4 so far */
    add_weighted_values(sums, scores, v_tile, factor_of<T>(a, MLA_SPLIT_V, batch, kv_head, first_key));
  }

  /* F3, F4 */
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query = first_query + warp_row + r * 16 + half * 8 + lane / 4;
      const float total = sum_of_quad(state.total[r][half]);
      const float factor = total > 0 ? 1 / total : 0;
      if (query >= p.sq) continue;
      void *row = row_of(p.out, p.type, batch, query, head);
#pragma unroll
      for (int c = 0; c < HEAD_V / 8; c += 2)
        store_sixteen<T>({row, p.type, row, p.type, HEAD_V}, c * 8, sums[r][c], sums[r][c + 1], half, factor);
      if (lane % 4 == 0) p.lse[((int64_t)batch * p.hq + head) * p.sq + query] = state.lse(r, half, total, scale);
    }
}

#define ENTRY(TYPE, T, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS)                                                    \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 8 / WARPS)                                               \
      mla_attention_##TYPE##_##HEAD_QK##_##HEAD_V##_##BLOCK_Q##_##BLOCK_K(const __grid_constant__ MlaArguments a) { \
    attend<T, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS>(a);                                                         \
  }
#define HALF_KERNELS(...) ENTRY(f16, __half, __VA_ARGS__) ENTRY(bf16, __nv_bfloat16, __VA_ARGS__)
MLA_SM80_ATTENTION(HALF_KERNELS)
#define TF32_KERNEL(...) ENTRY(tf32, Tf32, __VA_ARGS__)
MLA_SM80_ATTENTION_TF32(TF32_KERNEL)
#define F32_KERNEL(...) ENTRY(f32, SplitHalf, __VA_ARGS__)
MLA_SM80_ATTENTION_F32(F32_KERNEL)
