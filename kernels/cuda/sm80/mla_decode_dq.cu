/* MLADecodeDq: B2-B4 of gradients/README.md, the cache being key and value in one.

   A block owns BLOCK_Q packed rows and a part of the keys that they see, the steps of decode_tile.cuh:
     parts of scores = Q · Kᵀ (half of the warps) and dP = dOut · Vᵀ (the others)
     dS = 2^(scores − lse) · (dP − delta)   eight threads a row; as halves times a power of two of the row's own, and so
                                            are float rows of dOut
     sums += dS · K
   in the order of mla_decode.cu. grid: (tiles of rows, splits, batch). With splits the sums go to partial_out, floats
   [batch][splits][rows][DQK], which mla_decode_dq_sum adds up in their order. */
#include "decode_tile.cuh"
#include "weight_scale.cuh"

constexpr int DN = MLA_DECODE_DN, DQK = MLA_DECODE_DQK, BLOCK_K = MLA_DECODE_BLOCK_K;
constexpr int BLOCK_Q = MLA_DECODE_DQ_BLOCK_Q, STAGES = MLA_DECODE_DQ_STAGES;

template <typename T>
using DsTile = Tile<T, BLOCK_Q, BLOCK_K>;
using Products = Parts<2 * BLOCK_Q, BLOCK_K>; /* scores, then dP */

template <typename T>
struct DqRow {
  Range seen; /* by this thread's row */
  float scale, lse, delta;
  WeightScale<T> weight_scale;

  /* dS of four keys of the row. Returns what the row's sums so far are to be multiplied by. */
  __device__ float weigh(const Products &parts, const DsTile<T> &weights, int first_key) {
    const int row = threadIdx.x / 8, column = threadIdx.x % 8 * 4;
    const float4 scores = parts.sum(row, column), d_p = parts.sum(BLOCK_Q + row, column);
    auto d_s_of = [&](int i, float score, float d_p) {
      const int key = first_key + column + i;
      return key >= seen.lo && key < seen.hi ? exp2_fast(score * scale - lse) * (d_p - delta) : 0;
    };
    const float4 d_s{d_s_of(0, scores.x, d_p.x), d_s_of(1, scores.y, d_p.y), d_s_of(2, scores.z, d_p.z),
                     d_s_of(3, scores.w, d_p.w)};
    const float most = fmaxf(fmaxf(fabsf(d_s.x), fabsf(d_s.y)), fmaxf(fabsf(d_s.z), fabsf(d_s.w)));
    const float factor = weight_scale.template fit<8>(most);
    const float by = weight_scale.scale;
    store_half_chunk(weights.address(row, column / CHUNK) + column % CHUNK * 2, pack(d_s.x * by, d_s.y * by, T()),
                     pack(d_s.z * by, d_s.w * by, T()));
    return factor;
  }
};

/* The power of two that brings a row of dOut, of which eight threads have an eighth each, into the range of halves. */
template <typename T>
__device__ inline float d_out_scale(const float *d_out) {
  if constexpr (!is_half<T>) return 1;
  float most = 0;
  for (int column = threadIdx.x % 8 * 4; column < DN; column += 32) {
    const float4 four = *reinterpret_cast<const float4 *>(d_out + column);
    most = fmaxf(most, fmaxf(fmaxf(fabsf(four.x), fabsf(four.y)), fmaxf(fabsf(four.z), fabsf(four.w))));
  }
  return power_of_two_to(0, max_of_lanes<8>(most));
}
template <typename T>
__device__ inline float d_out_scale(const T *) {
  return 1;
}

template <typename T, typename E>
__device__ inline void dq(const MlaArguments &a) {
  constexpr int STEPS = DQK / 64, VALUE_STEPS = DN / 64, COLUMNS = DN / WARPS;
  using KTile = Tile<T, BLOCK_K, DQK>;
  static_assert(STAGES * KTile::BYTES + Products::BYTES + 2 * DsTile<T>::BYTES + BLOCK_Q * 4 == MLA_DECODE_DQ_SHARED,
                "as the plan says");
  static_assert(STAGES == 3 && BLOCK_Q == BLOCK_K, "a tile of left rows fits into a stage");
  static_assert(BLOCK_Q == 32 && BLOCK_Q * 8 == THREADS, "a warp has all rows of one product, eight threads a row");

  extern __shared__ __align__(128) char shared[];
  const unsigned start = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  const Products parts{start + STAGES * KTile::BYTES};
  const unsigned weights = parts.start + Products::BYTES, factors = weights + 2 * DsTile<T>::BYTES;
  auto stage_of = [&](unsigned tile) { return start + tile % STAGES * KTile::BYTES; };

  const MlaParams &p = a.params;
  const int first_row = blockIdx.x * BLOCK_Q, split = blockIdx.y, batch = blockIdx.z, rows = p.sq * p.hq;
  const int warp = threadIdx.x / 32, depth_group = warp % DEPTH_GROUPS;
  const bool has_scores = warp < DEPTH_GROUPS;
  const int own_row = first_row + threadIdx.x / 8;
  const Visibility visibility(p, batch);
  const Range keys = part_of<BLOCK_K>(keys_of_rows(visibility, p, first_row, BLOCK_Q), split, a.splits);
  const int tiles = (max(keys.hi - keys.lo, 0) + BLOCK_K - 1) / BLOCK_K;

  auto copy = [&](int tile) {
    if (tile < tiles)
      stage_rows(KTile{stage_of(tile)}, HeadRows<E>(p.k, p.k_rope, DN, batch, 0), keys.lo + tile * BLOCK_K, keys.hi);
    commit_copies();
  };
  /* queries and dOut come through the stages of the next two tiles */
  const PackedRows<E> d_out(p.d_out, p.d_out, DN, batch, p.hq);
  const float row_scale = d_out_scale<T>(d_out[min(own_row, rows - 1)].at(0)); /* every lane takes part */
  const Tile<T, BLOCK_Q, DQK> q_tile{stage_of(1)};
  const Tile<T, BLOCK_Q, DN> d_out_tile{stage_of(2)};
  copy(0);
  stage_rows(q_tile, PackedRows<E>(p.q, p.q_rope, DN, batch, p.hq), first_row, rows);
  stage_rows(d_out_tile, d_out, first_row, rows, row_scale);
  commit_copies();
  wait_for_copies<0>();
  __syncthreads();
  Left<T, BLOCK_Q / 16, STEPS> left;
  if (has_scores) left.load(q_tile, 0, depth_group);
  else left.load(d_out_tile, 0, depth_group);
  __syncthreads();
  copy(1);

  DqRow<T> own;
  const bool is_row = own_row < rows;
  own.seen = is_row ? visibility.keys_of(own_row / p.hq) : Range{0, 0};
  own.scale = p.softmax_scale * LOG2_E;
  own.lse = is_row ? p.lse[stat_index(p, batch, own_row)] * LOG2_E : 0;
  own.delta = is_row ? p.delta[stat_index(p, batch, own_row)] * row_scale : 0;
  float sums[BLOCK_Q / 16][COLUMNS / 8][4] = {}, rope_sums[BLOCK_Q / 16][1][4] = {};
  float factor = 1;

  /* tile -1 has no sums, and behind the last tile there are no products */
#pragma unroll 1
  for (int tile = -1; tile < tiles; tile++) {
    const bool has_next = tile + 1 < tiles;
    wait_for_copies<STAGES - 3>();
    /* the weights and the next keys are there, and nobody reads the last ones */
    if (__syncthreads_or(factor != 1)) scale_rows(sums, factors), scale_rows(rope_sums, factors);
    factor = 1;
    if (tile >= 0) copy(tile + STAGES - 1);

    /* F1, B2 */
    const KTile next{stage_of(tile + 1)};
    if (has_next && has_scores) multiply_parts<STEPS, BLOCK_K>(parts, left, 0, next, 0, depth_group);
    if (has_next && !has_scores) multiply_parts<VALUE_STEPS, BLOCK_K>(parts, left, BLOCK_Q, next, 0, depth_group);
    __syncthreads(); /* the products are there, and nobody reads the factors */

#pragma unroll 1
    for (int turn = 0; turn < 2; turn++)
      if ((turn == 0) == has_scores) {
        /* F3, B3, of the next tile */
        if (!has_next) continue;
        factor = own.weigh(parts, DsTile<T>{weights + (tile + 1) % 2 * DsTile<T>::BYTES}, keys.lo + (tile + 1) * BLOCK_K);
        if (threadIdx.x % 8 == 0) store_shared(factors + threadIdx.x / 2, __float_as_uint(factor));
      } else if (tile >= 0) {
        /* B4 so far */
        const DsTile<T> d_s{weights + tile % 2 * DsTile<T>::BYTES};
        const KTile k_tile{stage_of(tile)};
        add_weighted<BLOCK_K>(sums, d_s, 0, k_tile, warp * COLUMNS);
        add_weighted<BLOCK_K>(rope_sums, d_s, 0, k_tile, DN + warp * 8);
      }
  }

  const float sum_scale = p.softmax_scale / own.weight_scale.scale / row_scale;
  if (threadIdx.x % 8 == 0) store_shared(factors + threadIdx.x / 2, __float_as_uint(sum_scale));
  __syncthreads();
  scale_rows(sums, factors);
  scale_rows(rope_sums, factors);
  if (a.splits > 1) {
    float *partial = static_cast<float *>(a.partial_out) + (((int64_t)batch * a.splits + split) * rows + first_row) * DQK;
    store_rows<float>(sums, rows - first_row, [&](int row) { return partial + row * DQK + warp * COLUMNS; });
    store_rows<float>(rope_sums, rows - first_row, [&](int row) { return partial + row * DQK + DN + warp * 8; });
  } else {
    const PackedRows<E> d_q(p.d_q, p.d_q_rope, DN, batch, p.hq);
    store_rows<E>(sums, rows - first_row, [&](int row) { return d_q.at(first_row + row, warp * COLUMNS); });
    store_rows<E>(rope_sums, rows - first_row, [&](int row) { return d_q.at(first_row + row, DN + warp * 8); });
  }
}

/* Four columns of a row a thread. grid: (blocks, batch). */
template <typename E>
__device__ inline void sum_splits(const MlaArguments &a) {
  const MlaParams &p = a.params;
  const int rows = p.sq * p.hq, batch = blockIdx.y;
  const int i = blockIdx.x * blockDim.x + threadIdx.x, row = i / (DQK / 4), column = i % (DQK / 4) * 4;
  if (row >= rows) return;
  const float *partial = static_cast<const float *>(a.partial_out) + ((int64_t)batch * a.splits * rows + row) * DQK + column;
  float4 sum{};
#pragma unroll 8
  for (int split = 0; split < a.splits; split++) {
    const float4 part = *reinterpret_cast<const float4 *>(partial + (int64_t)split * rows * DQK);
    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
  }
  E *to = PackedRows<E>(p.d_q, p.d_q_rope, DN, batch, p.hq).at(row, column);
  if constexpr (sizeof(E) == 4) *reinterpret_cast<float4 *>(to) = sum;
  else *reinterpret_cast<uint2 *>(to) = make_uint2(pack(sum.x, sum.y, E()), pack(sum.z, sum.w, E()));
}

#define KERNEL(NAME, T, E)                                                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS) mla_decode_dq_##NAME(const __grid_constant__ MlaArguments a) {   \
    dq<T, E>(a);                                                                                                         \
  }
KERNEL(f16, __half, __half)
KERNEL(bf16, __nv_bfloat16, __nv_bfloat16)
KERNEL(f32_as_f16, __half, float)
KERNEL(f32_as_bf16, __nv_bfloat16, float)

extern "C" __global__ void mla_decode_dq_sum_f16(const __grid_constant__ MlaArguments a) { sum_splits<__half>(a); }
extern "C" __global__ void mla_decode_dq_sum_bf16(const __grid_constant__ MlaArguments a) { sum_splits<__nv_bfloat16>(a); }
extern "C" __global__ void mla_decode_dq_sum_f32(const __grid_constant__ MlaArguments a) { sum_splits<float>(a); }
