/* The gradients of keys and values, MLAAttentionDkv: B2, B3, B5-B7 of gradients/README.md, with P made again from lse.

   A block owns BLOCK_K keys of a key/value head and walks over the queries that see them, BLOCK_Q at a time, of one query
   head of the group after the other; the next tile comes while one is multiplied. A warp owns 16 of the keys. Scores are
   held transposed, keys down: so Pᵀ and dSᵀ, as they come out of a product, are the left sides of the next ones, and
   never leave the registers.
   grid: (batch · hkv, tiles of keys). Shared memory: K, V, then twice Q, dOut, lse, delta. */
#include "gradient.cuh"
#include "tiles.h"

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_K, int BLOCK_Q>
struct Dkv {
  static constexpr int THREADS = BLOCK_K / 16 * 32;
  static constexpr int PART_Q = 32; /* queries whose scores a warp has in registers */
  using KTile = Tile<T, BLOCK_K, HEAD_QK>;
  using VTile = Tile<T, BLOCK_K, HEAD_V>;
  using QTile = Tile<T, BLOCK_Q, HEAD_QK>;
  using DOutTile = Tile<T, BLOCK_Q, HEAD_V>;
  static constexpr int STAGE_BYTES = QTile::BYTES + DOutTile::BYTES + 2 * BLOCK_Q * 4;

  const MlaArguments &a;
  const MlaParams &p;
  const int batch, kv_head, group, first_key, warp_row;
  const Visibility visibility;
  const Range seeing; /* the queries */
  char *const shared;
  const KTile k_tile;
  const VTile v_tile;

  float d_k[HEAD_QK / 8][4] = {}, d_v[HEAD_V / 8][4] = {};
  GradientScale<T> scale;

  __device__ Dkv(const MlaArguments &arguments, char *memory)
      : a(arguments),
        p(arguments.params),
        batch(blockIdx.x / p.hkv),
        kv_head(blockIdx.x % p.hkv),
        group(p.hq / p.hkv),
        first_key(blockIdx.y * BLOCK_K),
        warp_row(threadIdx.x / 32 * 16),
        visibility(p, batch),
        seeing(visibility.queries_of_any(first_key, BLOCK_K)),
        shared(memory),
        k_tile{static_cast<unsigned>(__cvta_generic_to_shared(memory))},
        v_tile{k_tile.start + KTile::BYTES} {}

  __device__ unsigned stage_of(int step) const { return v_tile.start + VTile::BYTES + step % 2 * STAGE_BYTES; }

  __device__ void copy_keys() const {
    copy_rows<THREADS>(k_tile, HeadRows<T>(p.k, p.k_rope, p.dn, batch, kv_head), first_key, 0, visibility.kv_length);
    copy_rows<THREADS>(v_tile, HeadRows<T>(p.v, p.v, HEAD_V, batch, kv_head), first_key, 0, visibility.kv_length);
  }

  __device__ void copy_queries(int step, int tiles) const {
    const int head = kv_head * group + step / tiles, first = seeing.lo + step % tiles * BLOCK_Q;
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

  /* Those of PART_Q queries that the warp's keys are not seen by become 0. */
  __device__ void hide(float (&numbers)[PART_Q / 8][4], int first_query) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Range queries = visibility.queries_of(first_key + warp_row + half * 8 + lane / 4);
#pragma unroll
      for (int c = 0; c < PART_Q / 8; c++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
          const int query = first_query + c * 8 + lane % 4 * 2 + i;
          if (query < queries.lo || query >= queries.hi) numbers[c][half * 2 + i] = 0;
        }
    }
  }

  /* The queries [first, first + PART_Q) of a tile that begins with first_query. */
  __device__ void add_part(const QTile &q_tile, const DOutTile &d_out_tile, const float2 *lse, const float2 *delta,
                           int first, int first_query) {
    const int lane = threadIdx.x % 32;
    const bool is_whole = visibility.is_whole(first_query + first, PART_Q, first_key + warp_row, 16);
    /* F1, F3 */
    float weights[PART_Q / 8][4] = {};
    multiply_rows(weights, k_tile, warp_row, q_tile, first);
    const float factor = p.softmax_scale * LOG2_E;
#pragma unroll
    for (int c = 0; c < PART_Q / 8; c++) {
      const float2 two = lse[(first + c * 8) / 2 + lane % 4];
      const float less[2] = {scale.WEIGHT_EXPONENT - two.x * LOG2_E, scale.WEIGHT_EXPONENT - two.y * LOG2_E};
#pragma unroll
      for (int i = 0; i < 4; i++) weights[c][i] = exp2_fast(weights[c][i] * factor + less[i % 2]);
    }
    if (!is_whole) hide(weights, first_query + first);
    /* B5 */
    multiply_sums(d_v, weights, d_out_tile, first);
    /* B2, B3 */
    float d_s[PART_Q / 8][4] = {};
    multiply_rows(d_s, v_tile, warp_row, d_out_tile, first);
#pragma unroll
    for (int c = 0; c < PART_Q / 8; c++) {
      const float2 two = delta[(first + c * 8) / 2 + lane % 4];
#pragma unroll
      for (int i = 0; i < 4; i++) d_s[c][i] = weights[c][i] * (d_s[c][i] - (i % 2 ? two.y : two.x));
    }
    scale.fit(d_s, d_k);
    /* B6, B7 */
    multiply_sums(d_k, d_s, q_tile, first);
  }

  __device__ void walk() {
    const int tiles = seeing.hi > seeing.lo ? (seeing.hi - seeing.lo + BLOCK_Q - 1) / BLOCK_Q : 0;
    const int steps = tiles * group;
    const Range of_warp = visibility.queries_of_any(first_key + warp_row, 16);
    if (steps == 0) return;
    copy_keys();
    copy_queries(0, tiles);
    commit_copies();
    for (int step = 0; step < steps; step++) {
      wait_for_copies<0>();
      __syncthreads(); /* this tile is there, and nobody reads the one before it */
      if (step + 1 < steps) copy_queries(step + 1, tiles);
      commit_copies();
      const int first_query = seeing.lo + step % tiles * BLOCK_Q;
      const QTile q_tile{stage_of(step)};
      const DOutTile d_out_tile{q_tile.start + QTile::BYTES};
      const float2 *lse = reinterpret_cast<const float2 *>(shared + (d_out_tile.start + DOutTile::BYTES - k_tile.start));
#pragma unroll 1
      for (int first = 0; first < BLOCK_Q; first += PART_Q)
        if (first_query + first < of_warp.hi && first_query + first + PART_Q > of_warp.lo)
          add_part(q_tile, d_out_tile, lse, lse + BLOCK_Q / 2, first, first_query);
    }
  }

  /* The part of dK that is summed over heads as floats, [batch, hkv, skv, dr], where it is. */
  __device__ void store() const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int key = first_key + warp_row + half * 8 + threadIdx.x % 32 / 4;
      if (key >= p.skv) continue;
      float *partial = static_cast<float *>(a.partial_out);
      if (partial) partial += (((int64_t)batch * p.hkv + kv_head) * p.skv + key) * p.dr;
      store_row<T>(d_k, half, p.softmax_scale * scale.gradient_factor(), row_of(p.d_k, p.type, batch, key, kv_head),
                   p.type, partial ? partial : row_of(p.d_k_rope, p.type, batch, key, kv_head),
                   partial ? MLA_FLOAT32 : p.type, p.dn);
      void *d_v_row = row_of(p.d_v, p.type, batch, key, kv_head);
      store_row<T>(d_v, half, scale.weight_factor(), d_v_row, p.type, d_v_row, p.type, HEAD_V);
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
  const int64_t head_stride = (int64_t)p.skv * p.dr;
  const float *partial = static_cast<const float *>(a.partial_out) + batch * p.hkv * head_stride + (int64_t)key * p.dr + column;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
  for (int head = 0; head < p.hkv; head++) {
    const float4 four = __ldg(reinterpret_cast<const float4 *>(partial + head * head_stride));
    sum = make_float4(sum.x + four.x, sum.y + four.y, sum.z + four.z, sum.w + four.w);
  }
  void *row = row_of(p.d_k_rope, p.type, batch, key, 0);
  if (p.type == MLA_FLOAT16)
    store_pair<__half>(row, p.type, column, sum.x, sum.y), store_pair<__half>(row, p.type, column + 2, sum.z, sum.w);
  else
    store_pair<__nv_bfloat16>(row, p.type, column, sum.x, sum.y), store_pair<__nv_bfloat16>(row, p.type, column + 2, sum.z, sum.w);
}

#define KERNEL(HEAD_QK, HEAD_V, BLOCK_K, BLOCK_Q)                                                               \
  extern "C" __global__ void __launch_bounds__(BLOCK_K * 2, 1)                                                  \
      mla_attention_dkv_f16_##HEAD_QK##_##HEAD_V##_##BLOCK_K(const __grid_constant__ MlaArguments a) {          \
    extern __shared__ __align__(128) char shared[];                                                             \
    Dkv<__half, HEAD_QK, HEAD_V, BLOCK_K, BLOCK_Q> dkv(a, shared);                                              \
    dkv.walk();                                                                                                 \
    dkv.store();                                                                                                \
  }                                                                                                             \
  extern "C" __global__ void __launch_bounds__(BLOCK_K * 2, 1)                                                  \
      mla_attention_dkv_bf16_##HEAD_QK##_##HEAD_V##_##BLOCK_K(const __grid_constant__ MlaArguments a) {         \
    extern __shared__ __align__(128) char shared[];                                                             \
    Dkv<__nv_bfloat16, HEAD_QK, HEAD_V, BLOCK_K, BLOCK_Q> dkv(a, shared);                                       \
    dkv.walk();                                                                                                 \
    dkv.store();                                                                                                \
  }
MLA_SM80_ATTENTION_DKV(KERNEL)
