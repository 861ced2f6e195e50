/* MLAAttention: F1-F4 of gradients/README.md with the softmax online (FlashAttention-2, arXiv:2307.08691, algorithm 1).

   A block owns BLOCK_Q queries of a head and walks over the keys that they see, BLOCK_K at a time, from the last to the
   first. A warp owns BLOCK_Q / WARPS of the queries: their scores, weights and sums stay in its registers. While a tile of
   keys is multiplied the values come, and while the values are multiplied the next keys do.
   grid: (batch · hq, tiles of queries), the queries that see most first. Shared memory: Q, K, V. */
#include "../plan.h"
#include "../visibility.cuh"
#include "softmax.cuh"
#include "tile.cuh"
#include "tiles.h"

/* A row of the result; T where the tensors have it, else float. */
template <typename T>
__device__ inline void store_pair(const MlaParams &p, int64_t index, float first, float second) {
  if (p.type == MLA_FLOAT32)
    *reinterpret_cast<float2 *>(static_cast<float *>(p.out.start) + index) = make_float2(first, second);
  else
    *reinterpret_cast<unsigned *>(static_cast<T *>(p.out.start) + index) = pack(first, second, T());
}

/* scores += Q·Kᵀ of a warp's queries. */
template <typename T, int ROWS, int BLOCK_Q, int BLOCK_K, int HEAD_QK>
__device__ inline void multiply_keys(float (&scores)[ROWS][BLOCK_K / 8][4], const Tile<T, BLOCK_Q, HEAD_QK> &q_tile,
                                     const Tile<T, BLOCK_K, HEAD_QK> &k_tile, int warp_row) {
#pragma unroll
  for (int column = 0; column < HEAD_QK; column += 16) {
    unsigned left[ROWS][4];
#pragma unroll
    for (int r = 0; r < ROWS; r++) q_tile.load_left(left[r], warp_row + r * 16, column);
#pragma unroll
    for (int key = 0; key < BLOCK_K; key += 16) {
      unsigned right[4];
      k_tile.load_right(right, key, column);
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        multiply(scores[r][key / 8], left[r], right[0], right[1], T());
        multiply(scores[r][key / 8 + 1], left[r], right[2], right[3], T());
      }
    }
  }
}

/* sums += P·V. */
template <typename T, int ROWS, int BLOCK_K, int HEAD_V>
__device__ inline void add_weighted_values(float (&sums)[ROWS][HEAD_V / 8][4],
                                           const float (&weights)[ROWS][BLOCK_K / 8][4],
                                           const Tile<T, BLOCK_K, HEAD_V> &v_tile) {
#pragma unroll
  for (int key = 0; key < BLOCK_K; key += 16) {
    unsigned left[ROWS][4];
#pragma unroll
    for (int r = 0; r < ROWS; r++) pack_left(left[r], weights[r][key / 8], weights[r][key / 8 + 1], T());
#pragma unroll
    for (int column = 0; column < HEAD_V; column += 16) {
      unsigned right[4];
      v_tile.load_right_transposed(right, key, column);
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        multiply(sums[r][column / 8], left[r], right[0], right[1], T());
        multiply(sums[r][column / 8 + 1], left[r], right[2], right[3], T());
      }
    }
  }
}

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int WARPS>
__device__ inline void attend(const MlaParams &p) {
  constexpr int THREADS = WARPS * 32;
  constexpr int ROWS = BLOCK_Q / WARPS / 16; /* tiles of 16 queries a warp */
  using QTile = Tile<T, BLOCK_Q, HEAD_QK>;
  using KTile = Tile<T, BLOCK_K, HEAD_QK>;
  using VTile = Tile<T, BLOCK_K, HEAD_V>;

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

  const int tiles = seen.hi > seen.lo ? (seen.hi - seen.lo + BLOCK_K - 1) / BLOCK_K : 0;
  if (tiles > 0) {
    copy_rows<THREADS>(q_tile, q, first_query, 0, p.sq);
    copy_rows<THREADS>(k_tile, k, seen.lo + (tiles - 1) * BLOCK_K, seen.lo, seen.hi);
    commit_copies();
  }
  for (int tile = tiles - 1; tile >= 0; tile--) {
    const int first_key = seen.lo + tile * BLOCK_K;
    wait_for_copies<0>();
    __syncthreads(); /* the keys are there, and nobody reads the last values */
    copy_rows<THREADS>(v_tile, v, first_key, seen.lo, seen.hi);
    commit_copies();

    /* F1 */
    float scores[ROWS][BLOCK_K / 8][4] = {};
    multiply_keys(scores, q_tile, k_tile, warp_row);

    wait_for_copies<0>();
    __syncthreads(); /* the values are there, and nobody reads the keys */
    if (tile > 0) {
      copy_rows<THREADS>(k_tile, k, first_key - BLOCK_K, seen.lo, seen.hi);
      commit_copies();
    }

    /* F2, F3 so far */
    if (!visibility.is_whole(first_query, BLOCK_Q, first_key, BLOCK_K))
      hide(scores, visibility, first_query + warp_row, first_key);
    state.weigh(scores, p.softmax_scale, sums);
    /* F4 so far */
    add_weighted_values(sums, scores, v_tile);
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
      const int64_t row = batch * p.out.batch + head * p.out.head + query * p.out.position;
#pragma unroll
      for (int c = 0; c < HEAD_V / 8; c++)
        store_pair<T>(p, row + c * 8 + lane % 4 * 2, sums[r][c][half * 2] * factor, sums[r][c][half * 2 + 1] * factor);
      if (lane % 4 == 0) p.lse[((int64_t)batch * p.hq + head) * p.sq + query] = state.lse(r, half, total, p.softmax_scale);
    }
}

#define KERNEL(HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS)                                                        \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)                                                   \
      mla_attention_f16_##HEAD_QK##_##HEAD_V##_##BLOCK_Q(const __grid_constant__ MlaArguments a) {              \
    attend<__half, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS>(a.params);                                         \
  }                                                                                                             \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, 2)                                                   \
      mla_attention_bf16_##HEAD_QK##_##HEAD_V##_##BLOCK_Q(const __grid_constant__ MlaArguments a) {             \
    attend<__nv_bfloat16, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS>(a.params);                                  \
  }
MLA_SM80_ATTENTION(KERNEL)
