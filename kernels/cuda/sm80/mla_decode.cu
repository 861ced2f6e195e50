/* MLADecode: F1-F4 of gradients/README.md for queries against a cache that is key and value in one, with the softmax online.

   A block owns BLOCK_Q packed rows (all heads of a position are neighbours) and a part of the keys that they see, the steps
   of decode_tile.cuh:
     parts of scores = Q · Kᵀ
     P = 2^(scores − reference)  some threads a row; a reference moves only when a score is 2^MOST_ABOVE times as heavy, so
                                 that sums seldom have to be scaled
     sums += P · V
   Between two barriers are the products of the next tile's scores; between the next two its weights and this tile's sums,
   which half of the warps take in the other order, so that tensor cores work while weights are found.
   grid: (tiles of rows, splits, batch). With splits the normalised sums go to partial_out [batch][splits][rows][DN], in the
   tensors' type, and their lse to partial_lse [batch][splits][rows]; mla_merge.cu takes both. */
#include "decode_tile.cuh"
#include "softmax.cuh"

constexpr int DN = MLA_DECODE_DN, DR = MLA_DECODE_DR, BLOCK_K = MLA_DECODE_BLOCK_K;
constexpr float MOST_ABOVE = 8;

template <typename T, int BLOCK_Q>
struct Online {
  static constexpr int KEYS = BLOCK_Q < 64 ? 4 : 8, LANES = BLOCK_K / KEYS; /* of a thread, of a row */
  Range seen; /* by this thread's row */
  float scale, reference = -INFINITY, total = 0;

  /* Weights of the row. Returns what its sums so far are to be multiplied by. */
  __device__ float weigh(const Parts<BLOCK_Q, BLOCK_K> &parts, const Tile<T, BLOCK_Q, BLOCK_K> &weights, int first_key) {
    const int row = threadIdx.x / LANES, column = threadIdx.x % LANES * KEYS;
    float scores[KEYS], most = -INFINITY;
#pragma unroll
    for (int i = 0; i < KEYS; i += 4) {
      const float4 four = parts.sum(row, column + i);
      scores[i] = four.x, scores[i + 1] = four.y, scores[i + 2] = four.z, scores[i + 3] = four.w;
    }
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
      const int key = first_key + column + i;
      scores[i] = key >= seen.lo && key < seen.hi ? scores[i] * scale : -INFINITY;
      most = fmaxf(most, scores[i]);
    }
    most = max_of_lanes<LANES>(most);
    float factor = 1;
    if (most > reference + MOST_ABOVE) {
      factor = exp2_fast(reference - most);
      reference = most;
    }
    const float subtracted = reference == -INFINITY ? 0 : reference;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < KEYS; i++) {
      scores[i] = exp2_fast(scores[i] - subtracted);
      sum += scores[i];
    }
    total = total * factor + sum;
#pragma unroll
    for (int i = 0; i < KEYS; i += 4)
      store_half_chunk(weights.address(row, (column + i) / CHUNK) + (column + i) % CHUNK * 2,
                       pack(scores[i], scores[i + 1], T()), pack(scores[i + 2], scores[i + 3], T()));
    return factor;
  }
};

template <typename T, typename E, int BLOCK_Q, int STAGES>
__device__ inline void decode(const MlaArguments &a) {
  constexpr int TILES = BLOCK_Q < 32 ? 1 : 2; /* of 16 rows, of a warp's products */
  constexpr int ROW_GROUPS = BLOCK_Q / (TILES * 16), KEY_GROUPS = WARPS / DEPTH_GROUPS / ROW_GROUPS;
  constexpr int STEPS = (DN + DR) / 64, COLUMNS = DN / WARPS, KEYS = BLOCK_K / KEY_GROUPS;
  constexpr int FIRST_TILES = STAGES - (BLOCK_Q + BLOCK_K - 1) / BLOCK_K; /* the queries come through the other stages */
  using KTile = Tile<T, BLOCK_K, DN + DR>;
  using QTile = Tile<T, BLOCK_Q, DN + DR>;
  using PTile = Tile<T, BLOCK_Q, BLOCK_K>;
  using Scores = Parts<BLOCK_Q, BLOCK_K>;
  static_assert(STAGES * KTile::BYTES + Scores::BYTES + 2 * PTile::BYTES + BLOCK_Q * 4 == MLA_DECODE_SHARED(BLOCK_Q, STAGES),
                "as the plan says");

  extern __shared__ __align__(128) char shared[];
  const unsigned start = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const Scores parts{start + STAGES * KTile::BYTES};
  const unsigned weights = parts.start + Scores::BYTES, factors = weights + 2 * PTile::BYTES;

  const MlaParams &p = a.params;
  const int first_row = blockIdx.x * BLOCK_Q, split = blockIdx.y, batch = blockIdx.z, rows = p.sq * p.hq;
  const int warp = threadIdx.x / 32, depth_group = warp % DEPTH_GROUPS;
  const int warp_row = warp / DEPTH_GROUPS % ROW_GROUPS * TILES * 16;
  const int warp_key = warp / DEPTH_GROUPS / ROW_GROUPS * KEYS;
  constexpr int LANES = Online<T, BLOCK_Q>::LANES;
  const bool is_weigher = threadIdx.x < BLOCK_Q * LANES, is_first_lane = is_weigher && threadIdx.x % LANES == 0;
  const int own_row = threadIdx.x / LANES; /* of the block's */
  const int64_t first_partial = ((int64_t)batch * a.splits + split) * rows + first_row;
  const Visibility visibility(p, batch);
  const Range keys = part_of<BLOCK_K>(keys_of_rows(visibility, p, first_row, BLOCK_Q), split, a.splits);
  const int tiles = (max(keys.hi - keys.lo, 0) + BLOCK_K - 1) / BLOCK_K;

  auto stage_of = [&](unsigned tile) { return start + tile % STAGES * KTile::BYTES; };
  auto copy = [&](int tile) {
    if (tile < tiles)
      stage_rows(KTile{stage_of(tile)}, HeadRows<E>(p.k, p.k_rope, DN, batch, 0), keys.lo + tile * BLOCK_K, keys.hi);
    commit_copies();
  };
  const QTile q_tile{stage_of(FIRST_TILES)};
  stage_rows(q_tile, PackedRows<E>(p.q, p.q_rope, DN, batch, p.hq), first_row, rows);
  commit_copies();
#pragma unroll 1
  for (int tile = 0; tile < FIRST_TILES; tile++) copy(tile);
  wait_for_copies<FIRST_TILES>();
  __syncthreads();
  Left<T, TILES, STEPS> q;
  q.load(q_tile, warp_row, depth_group);
  __syncthreads();
#pragma unroll 1
  for (int tile = FIRST_TILES; tile < STAGES - 1; tile++) copy(tile);

  Online<T, BLOCK_Q> online;
  const bool is_row = is_weigher && first_row + own_row < rows;
  online.seen = is_row ? visibility.keys_of((first_row + own_row) / p.hq) : Range{0, 0};
  online.scale = p.softmax_scale * LOG2_E;
  float sums[BLOCK_Q / 16][COLUMNS / 8][4] = {};
  float factor = 1;

  /* tile -1 has no sums, and behind the last tile there are no scores */
#pragma unroll 1
  for (int tile = -1; tile < tiles; tile++) {
    const bool has_next = tile + 1 < tiles;
    wait_for_copies<STAGES - 3>();
    /* the weights and the next keys are there, and nobody reads the last ones */
    if (__syncthreads_or(factor != 1)) scale_rows(sums, factors);
    factor = 1;
    if (tile >= 0) copy(tile + STAGES - 1);

    /* F1 */
    if (has_next) multiply_parts<STEPS, KEYS>(parts, q, warp_row, KTile{stage_of(tile + 1)}, warp_key, depth_group);
    __syncthreads(); /* the scores are there, and nobody reads the factors */

#pragma unroll 1
    for (int turn = 0; turn < 2; turn++)
      if ((turn == 0) == (warp < WARPS / 2)) {
        /* F2, F3 so far, of the next tile */
        if (!has_next || !is_weigher) continue;
        factor = online.weigh(parts, PTile{weights + (tile + 1) % 2 * PTile::BYTES}, keys.lo + (tile + 1) * BLOCK_K);
        if (is_first_lane) store_shared(factors + own_row * 4, __float_as_uint(factor));
      } else if (tile >= 0) {
        /* F4 so far */
        add_weighted<BLOCK_K>(sums, PTile{weights + tile % 2 * PTile::BYTES}, 0, KTile{stage_of(tile)}, warp * COLUMNS);
      }
  }

  /* F2, F3, F4 */
  if (is_weigher) {
    const float total = sum_of_lanes<LANES>(online.total);
    const float lse = total == 0 ? -INFINITY : online.reference * LN_2 + logf(total);
    if (is_first_lane) store_shared(factors + own_row * 4, __float_as_uint(total == 0 ? 0 : 1 / total));
    if (is_first_lane && is_row)
      (a.splits > 1 ? a.partial_lse[first_partial + own_row] : p.lse[stat_index(p, batch, first_row + own_row)]) = lse;
  }
  if (a.splits > 1 && tiles == 0) return; /* with an lse of -inf nobody reads the sums */
  __syncthreads();
  scale_rows(sums, factors);
  const PackedRows<E> out(p.out, p.out, DN, batch, p.hq);
  E *partial_out = static_cast<E *>(a.partial_out) + first_partial * DN + warp * COLUMNS;
  store_rows<E>(sums, rows - first_row, [&](int row) {
    return a.splits > 1 ? partial_out + row * DN : out.at(first_row + row, warp * COLUMNS);
  });
}

#define KERNEL(NAME, T, E, BLOCK_Q, STAGES)                                    \
  extern "C" __global__ void __launch_bounds__(THREADS)                        \
      mla_decode_##NAME##_##BLOCK_Q(const __grid_constant__ MlaArguments a) {  \
    decode<T, E, BLOCK_Q, STAGES>(a);                                          \
  }
#define KERNELS(BLOCK_Q, STAGES)                                 \
  KERNEL(f16, __half, __half, BLOCK_Q, STAGES)                   \
  KERNEL(bf16, __nv_bfloat16, __nv_bfloat16, BLOCK_Q, STAGES)    \
  KERNEL(f32_as_f16, __half, float, BLOCK_Q, STAGES)             \
  KERNEL(f32_as_bf16, __nv_bfloat16, float, BLOCK_Q, STAGES)
MLA_DECODE_TILES(KERNELS)
