/* The gradients of keys and values, steps B2, B3 and B5 to B7 of gradients/README.md, on sm_90. A block takes BLOCK_K keys
   of one head and walks the queries that see them in tiles of BLOCK_Q, through all query heads of the key's head. One
   warpgroup, the producer, fills rings of queries with their lse and delta, and of dOut; each of two consumers has 64 of
   the keys, and the sums of dK and dV in registers.

   The products are of keys x queries, so that weights and dS lie in registers as left sides.

   Where heads share the rope, each writes its part of dKRope as float32 to partial_out, [batch, hkv, skv, dr], and
   mla_attention_dkv_rope adds them up. */
#include "blocks.cuh"
#include "gradient.cuh"
#include "key_walk.cuh"
#include "tile.cuh"
#include "tiles.h"

template <typename T, typename Out, int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int Q_STAGES, int D_OUT_STAGES>
struct Dkv {
  static constexpr int CONSUMERS = 2;
  static_assert(BLOCK_K == WARPGROUP_ROWS * CONSUMERS);
  static constexpr int CONSUMER_THREADS = WARPGROUP * CONSUMERS;
  static constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
  using Block = KeyBlock<BLOCK_K, BLOCK_Q>;
  using Walk = KeyWalk<BLOCK_Q, BLOCK_K, Q_STAGES, D_OUT_STAGES>;
  enum NamedBarrier { CLEARED = 1 };

  struct Shared {
    Tile<T, BLOCK_K, HEAD_QK> k;
    Tile<T, BLOCK_K, HEAD_V> v;
    Tile<T, BLOCK_Q, HEAD_QK> q[Q_STAGES];
    Tile<T, BLOCK_Q, HEAD_V> d_out[D_OUT_STAGES];
    float reference[Q_STAGES][BLOCK_Q], delta[Q_STAGES][BLOCK_Q];
    Barrier k_full, k_empty, q_full[Q_STAGES], q_empty[Q_STAGES], d_out_full[D_OUT_STAGES], d_out_empty[D_OUT_STAGES];
  };

  const MlaArguments &a;
  RowsMap q, q_rope, k, k_rope, v, d_out;
  Shared &shared;

  __device__ void init_barriers() {
    constexpr int CONSUMER_WARPS = CONSUMER_THREADS / 32;
    shared.k_full.init(1);
    shared.k_empty.init(CONSUMER_WARPS);
    for (int stage = 0; stage < Q_STAGES; stage++) {
      shared.q_full[stage].init(1 + 32);
      shared.q_empty[stage].init(CONSUMER_THREADS);
    }
    for (int stage = 0; stage < D_OUT_STAGES; stage++) {
      shared.d_out_full[stage].init(1);
      shared.d_out_empty[stage].init(CONSUMER_WARPS);
    }
    publish_barriers();
  }

  __device__ void produce() {
    const MlaParams &p = a.params;
    Stage<Q_STAGES> q_stage;
    Stage<D_OUT_STAGES> d_out_stage;
    int k_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      if (block.tiles == 0) continue;
      shared.k_empty.wait(k_parity ^ 1);
      k_parity ^= 1;
      shared.k_full.arrive_and_expect(sizeof shared.k + sizeof shared.v);
      copy_tile(shared.k, k, k_rope, p.dn, block.first_key, block.kv_head, block.batch, shared.k_full);
      copy_tile(shared.v, v, block.first_key, block.kv_head, block.batch, shared.k_full);
      for (int n = 0; n < block.tiles; n++) {
        Barrier &q_full = shared.q_full[q_stage.index], &d_out_full = shared.d_out_full[d_out_stage.index];
        shared.q_empty[q_stage.index].wait(q_stage.parity ^ 1);
        q_full.arrive_and_expect(sizeof shared.q[0]);
        copy_tile(shared.q[q_stage.index], q, q_rope, p.dn, block.query(n), block.head(n), block.batch, q_full);
        shared.d_out_empty[d_out_stage.index].wait(d_out_stage.parity ^ 1);
        d_out_full.arrive_and_expect(sizeof shared.d_out[0]);
        copy_tile(shared.d_out[d_out_stage.index], d_out, block.query(n), block.head(n), block.batch, d_out_full);
        q_stage.advance();
        d_out_stage.advance();
      }
    }
  }

  /* A warp beside the producer: lse and delta of each tile of queries. */
  __device__ void produce_rows() {
    const MlaParams &p = a.params;
    Stage<Q_STAGES> stage;
    float power = GradientScale<T>::d_out_power(a.partial_lse);
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      for (int n = 0; n < block.tiles; n++) {
        int64_t rows = (static_cast<int64_t>(block.batch) * p.hq + block.head(n)) * p.sq;
        shared.q_empty[stage.index].wait(stage.parity ^ 1);
        for (int row = threadIdx.x % 32; row < BLOCK_Q; row += 32) {
          int query = block.query(n) + row;
          bool is_there = query < block.visibility.q_length;
          shared.reference[stage.index][row] =
              is_there ? weight_reference(p.lse[rows + query]) - GradientScale<T>::WEIGHT_EXPONENT : INFINITY;
          shared.delta[stage.index][row] = is_there ? p.delta[rows + query] * power : 0;
        }
        shared.q_full[stage.index].arrive();
        stage.advance();
      }
    }
  }

  /* What a consumer has of its keys. */
  struct Sums {
    float dk[HEAD_QK / 2], dv[HEAD_V / 2];
  };
  using Left = unsigned[BLOCK_Q / 16][4];

  /* F3: weights of a tile's scores; the queries are columns here. */
  __device__ void weigh(Left &weights, const float (&scores)[BLOCK_Q / 2], const float (&reference)[BLOCK_Q]) {
    float scale = a.params.softmax_scale * LOG2_E;
#pragma unroll
    for (int n = 0; n < BLOCK_Q / 8; n++) {
      float2 references = *reinterpret_cast<const float2 *>(&reference[n * 8 + threadIdx.x % 4 * 2]);
#pragma unroll
      for (int i = 0; i < 2; i++)
        weights[n / 2][n % 2 * 2 + i] = pack(weight(scores[4 * n + 2 * i], scale, references.x),
                                             weight(scores[4 * n + 2 * i + 1], scale, references.y), T());
    }
  }
  /* B3: makes dS of dP. */
  __device__ void differentiate(float (&d_weights)[BLOCK_Q / 2], const Left &weights, const float (&delta)[BLOCK_Q]) {
#pragma unroll
    for (int n = 0; n < BLOCK_Q / 8; n++) {
      float2 deltas = *reinterpret_cast<const float2 *>(&delta[n * 8 + threadIdx.x % 4 * 2]);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float2 pair = unpack(weights[n / 2][n % 2 * 2 + i], T());
        d_weights[4 * n + 2 * i] = pair.x * (d_weights[4 * n + 2 * i] - deltas.x);
        d_weights[4 * n + 2 * i + 1] = pair.y * (d_weights[4 * n + 2 * i + 1] - deltas.y);
      }
    }
  }

  __device__ void write(const Block &block, int consumer, const Sums &sums, const GradientScale<T> &scale) {
    const MlaParams &p = a.params;
    int rope_column = (p.dn + PANEL - 1) / PANEL * PANEL;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int key = block.first_key + consumer * WARPGROUP_ROWS + row_of_thread() + 8 * i;
      Range seen = block.visibility.queries_of(key);
      bool is_there = key < p.skv, is_seen = seen.lo < seen.hi;
      float factor = p.softmax_scale * scale.gradient_factor(i) / (1 << scale.WEIGHT_EXPONENT);
      Out *nope = is_there ? row_of<Out>(p.d_k, block.batch, key, block.kv_head) : nullptr, *none = nullptr;
      if (a.partial_out) {
        int64_t place = (static_cast<int64_t>(block.batch) * p.hkv + block.kv_head) * p.skv + key;
        float *rope = is_there ? static_cast<float *>(a.partial_out) + place * p.dr : nullptr, *no_nope = nullptr;
        write_row(nope, none, sums.dk, i, p.dn, rope_column, 0, factor, is_seen);
        write_row(no_nope, rope, sums.dk, i, 0, rope_column, p.dr, factor, is_seen);
      } else {
        Out *rope = is_there && p.dr ? row_of<Out>(p.d_k_rope, block.batch, key, block.kv_head) : nullptr;
        write_row(nope, rope, sums.dk, i, p.dn, rope_column, p.dr, factor, is_seen);
      }
      write_row(is_there ? row_of<Out>(p.d_v, block.batch, key, block.kv_head) : none, sums.dv, i, p.dv,
                scale.weight_factor(), is_seen);
    }
  }

  /* Of dK and dV, queries past the length would take 0 times whatever is there: clears them. */
  __device__ void clear_past_length(const Walk &walk) {
    int row = clamp_length(a.params.q_lengths, walk.batch, a.params.sq) - walk.query;
    if (row >= BLOCK_Q) return;
    int thread = threadIdx.x - WARPGROUP;
    shared.d_out_full[walk.d_out_stage.index].wait(walk.d_out_stage.parity);
    shared.q[walk.q_stage.index].clear_from(row, thread, CONSUMER_THREADS);
    shared.d_out[walk.d_out_stage.index].clear_from(row, thread, CONSUMER_THREADS);
    publish_shared_memory();
    named_sync(CLEARED, CONSUMER_THREADS);
  }

  /* One tile of queries. Leaves the addition to dK under way. */
  __device__ void step(bool is_first, Walk &walk, Sums &sums, GradientScale<T> &scale, Left &left) {
    int q_index = walk.q_stage.index, d_out_index = walk.d_out_stage.index;
    float scores[BLOCK_Q / 2];
    shared.q_full[q_index].wait(walk.q_stage.parity);
    if (a.params.q_lengths) clear_past_length(walk);
    begin_product(scores, shared.k, walk.first_row, shared.q[q_index]);
    wait_for_products<0>(scores);
    if (!is_first) leave_last(walk);
    if (!walk.is_whole()) walk.hide_unseen_queries(scores, a.params);
    weigh(left, scores, shared.reference[q_index]);
    shared.d_out_full[d_out_index].wait(walk.d_out_stage.parity);
    begin_product(scores, shared.v, walk.first_row, shared.d_out[d_out_index]);
    begin_addition(sums.dv, left, shared.d_out[d_out_index]);
    wait_for_products<0>(scores);
    differentiate(scores, left, shared.delta[q_index]);
    scale.fit(scores, sums.dk);
    pack_left(left, scores, T());
    begin_addition(sums.dk, left, shared.q[q_index]);
    walk.advance();
  }
  __device__ void leave_last(const Walk &walk) {
    shared.q_empty[walk.last_q()].arrive(); /* every lane has itself read lse and delta */
    leave(shared.d_out_empty[walk.last_d_out()]);
  }

  __device__ void consume(int consumer) {
    Walk walk;
    walk.first_row = consumer * WARPGROUP_ROWS;
    int k_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(a.params); round++) {
      int tiles;
      {
        Block block(a, part);
        walk.begin(block);
        tiles = block.tiles;
      }
      Sums sums;
      GradientScale<T> scale(a.partial_lse);
      Left left;
#pragma unroll
      for (int i = 0; i < HEAD_QK / 2; i++) sums.dk[i] = 0;
#pragma unroll
      for (int i = 0; i < HEAD_V / 2; i++) sums.dv[i] = 0;
      if (tiles > 0) {
        shared.k_full.wait(k_parity);
        k_parity ^= 1;
        for (int n = 0; n < tiles; n++) step(n == 0, walk, sums, scale, left);
        wait_for_products<0>(sums.dk);
        pin(sums.dv);
        leave_last(walk);
        leave(shared.k_empty);
      }
      write(Block(a, forget(part)), consumer, sums, scale);
    }
  }

  __device__ void run() {
    if (threadIdx.x == 0) init_barriers();
    __syncthreads();
    int warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
      give_registers<24>();
      if (threadIdx.x == 0) {
        produce();
        wait_for_previous(); /* of dQ, whose results are not read here: what comes next may read them */
      }
      if (threadIdx.x / 32 == 1) produce_rows();
    } else {
      take_registers<240>();
      consume(warpgroup - 1);
    }
  }
};

extern __shared__ __align__(1024) unsigned char shared_memory[];

#define KERNEL(NAME, ...)                                                                                              \
  extern "C" __global__ void __launch_bounds__(Dkv<__VA_ARGS__>::THREADS, 1)                                           \
      NAME(const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                \
           const __grid_constant__ TensorMap q_rope, const __grid_constant__ TensorMap k,                              \
           const __grid_constant__ TensorMap k_rope, const __grid_constant__ TensorMap v,                              \
           const __grid_constant__ TensorMap d_out) {                                                                  \
    const MlaParams &p = a.params;                                                                                     \
    using Kernel = Dkv<__VA_ARGS__>;                                                                                   \
    Kernel{a, {q, p.q}, {q_rope, p.q_rope}, {k, p.k}, {k_rope, p.k_rope}, {v, p.v}, {d_out, p.d_out},                  \
           *reinterpret_cast<Kernel::Shared *>(shared_memory)}.run();                                                  \
  }
#define KERNELS(QK, V, ...)                                                                                            \
  KERNEL(mla_attention_dkv_f16_##QK##_##V, __half, __half, QK, V, __VA_ARGS__)                                         \
  KERNEL(mla_attention_dkv_bf16_##QK##_##V, __nv_bfloat16, __nv_bfloat16, QK, V, __VA_ARGS__)                          \
  KERNEL(mla_attention_dkv_f16_f32_##QK##_##V, __half, float, QK, V, __VA_ARGS__)                                      \
  KERNEL(mla_attention_dkv_bf16_f32_##QK##_##V, __nv_bfloat16, float, QK, V, __VA_ARGS__)
MLA_SM90_ATTENTION_DKV(KERNELS)
