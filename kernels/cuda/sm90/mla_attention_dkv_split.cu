/* The gradients of keys and values on sm_90, steps B2, B3 and B5 to B7 of gradients/README.md, of float32 as split halves. As
   in mla_attention_dkv.cu, products are of keys x queries and the producer fills rings of queries, with what goes with them,
   and of dOut. Each of two consumers has 64 of the block's keys, or both have the same 64 and take tiles of queries in turn:
   then one gives the other what it has at the end. */
#include "gradient.cuh"
#include "key_walk.cuh"
#include "split.cuh"
#include "tiles.h"

template <int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int Q_STAGES, int D_OUT_STAGES>
struct SplitDkv {
  static constexpr int CONSUMERS = 2;
  static constexpr int TURNS = CONSUMERS * WARPGROUP_ROWS / BLOCK_K; /* consumers that have the same keys */
  static_assert(TURNS == 1 || TURNS == CONSUMERS);
  static_assert(MLA_SPLIT_ROWS == WARPGROUP_ROWS && is_in_a_chunk<SplitHalf, BLOCK_Q>, "tiles have one factor");
  static constexpr int CONSUMER_THREADS = WARPGROUP * CONSUMERS;
  static constexpr int TILE_THREADS = CONSUMER_THREADS / TURNS; /* that read a tile of queries */
  static constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
  static constexpr int WEIGHT_EXPONENT = 12; /* weights are multiplied by two to this, dS with them */
  using Block = KeyBlock<BLOCK_K, BLOCK_Q>;
  using Walk = KeyWalk<BLOCK_Q, BLOCK_K, Q_STAGES, D_OUT_STAGES>;

  /* What the products of a consumer with a tile of queries are multiplied by. */
  struct Factors {
    float scores, d_weights, q, d_out;
  };
  struct Shared {
    SplitTile<BLOCK_K, HEAD_QK> k;
    SplitTile<BLOCK_K, HEAD_V> v;
    SplitTile<BLOCK_Q, HEAD_QK> q[Q_STAGES];
    SplitTile<BLOCK_Q, HEAD_V> d_out[D_OUT_STAGES];
    Factors factors[Q_STAGES][BLOCK_K / WARPGROUP_ROWS];
    float reference[Q_STAGES][BLOCK_Q], delta[Q_STAGES][BLOCK_Q];
    Barrier k_full, k_empty, q_full[Q_STAGES], q_empty[Q_STAGES], d_out_full[D_OUT_STAGES], d_out_empty[D_OUT_STAGES];
    Handover handover;
  };

  const MlaArguments &a;
  const TensorMap &q, &k, &v, &d_out;
  Shared &shared;

  __device__ void init_barriers() {
    shared.k_full.init(1);
    shared.k_empty.init(CONSUMER_THREADS / 32);
    shared.handover.init();
    for (int stage = 0; stage < Q_STAGES; stage++) {
      shared.q_full[stage].init(1 + 32);
      shared.q_empty[stage].init(TILE_THREADS);
    }
    for (int stage = 0; stage < D_OUT_STAGES; stage++) {
      shared.d_out_full[stage].init(1);
      shared.d_out_empty[stage].init(TILE_THREADS / 32);
    }
    publish_barriers();
  }

  __device__ void produce() {
    Stage<Q_STAGES> q_stage;
    Stage<D_OUT_STAGES> d_out_stage;
    int k_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(a.params); round++) {
      Block block(a, part);
      if (block.tiles == 0) continue;
      shared.k_empty.wait(k_parity ^ 1);
      k_parity ^= 1;
      shared.k_full.arrive_and_expect(sizeof shared.k + sizeof shared.v);
      copy_tile(shared.k, k, block.first_key, block.kv_head, block.batch, shared.k_full);
      copy_tile(shared.v, v, block.first_key, block.kv_head, block.batch, shared.k_full);
      for (int n = 0; n < block.tiles; n++) {
        Barrier &q_full = shared.q_full[q_stage.index], &d_out_full = shared.d_out_full[d_out_stage.index];
        shared.q_empty[q_stage.index].wait(q_stage.parity ^ 1);
        q_full.arrive_and_expect(sizeof shared.q[0]);
        copy_tile(shared.q[q_stage.index], q, block.query(n), block.head(n), block.batch, q_full);
        shared.d_out_empty[d_out_stage.index].wait(d_out_stage.parity ^ 1);
        d_out_full.arrive_and_expect(sizeof shared.d_out[0]);
        copy_tile(shared.d_out[d_out_stage.index], d_out, block.query(n), block.head(n), block.batch, d_out_full);
        q_stage.advance();
        d_out_stage.advance();
      }
    }
  }

  /* A warp beside the producer: lse, delta and factors of each tile of queries. */
  __device__ void produce_rows() {
    const MlaParams &p = a.params;
    const int lane = threadIdx.x % 32;
    Stage<Q_STAGES> stage;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      const int keys = block.first_key + lane * WARPGROUP_ROWS % BLOCK_K;
      const float k_factor = factor_of<SplitHalf>(a, MLA_SPLIT_K, block.batch, block.kv_head, keys);
      const float v_factor = factor_of<SplitHalf>(a, MLA_SPLIT_V, block.batch, block.kv_head, keys);
      for (int n = 0; n < block.tiles; n++) {
        int64_t rows = (static_cast<int64_t>(block.batch) * p.hq + block.head(n)) * p.sq;
        const float q_factor = factor_of<SplitHalf>(a, MLA_SPLIT_Q, block.batch, block.head(n), block.query(n));
        const float d_out_factor = factor_of<SplitHalf>(a, MLA_SPLIT_D_OUT, block.batch, block.head(n), block.query(n));
        shared.q_empty[stage.index].wait(stage.parity ^ 1);
        for (int row = lane; row < BLOCK_Q; row += 32) {
          int query = block.query(n) + row;
          bool is_there = query < block.visibility.q_length;
          shared.reference[stage.index][row] =
              is_there ? weight_reference(p.lse[rows + query]) - WEIGHT_EXPONENT : INFINITY;
          shared.delta[stage.index][row] = is_there ? p.delta[rows + query] : 0;
        }
        if (lane < BLOCK_K / WARPGROUP_ROWS)
          shared.factors[stage.index][lane] = {p.softmax_scale * LOG2_E * k_factor * q_factor, v_factor * d_out_factor,
                                               q_factor, d_out_factor};
        shared.q_full[stage.index].arrive();
        stage.advance();
      }
    }
  }

  /* What a consumer has of its keys. */
  struct Sums {
    float dk[HEAD_QK / 2], dv[HEAD_V / 2];
  };

  /* F3: weights of a tile's scores; the queries are columns here. */
  __device__ void weigh(float (&scores)[BLOCK_Q / 2], float scale, const float (&reference)[BLOCK_Q]) {
#pragma unroll
    for (int n = 0; n < BLOCK_Q / 8; n++) {
      float2 references = *reinterpret_cast<const float2 *>(&reference[n * 8 + threadIdx.x % 4 * 2]);
#pragma unroll
      for (int i = 0; i < 4; i++)
        scores[4 * n + i] = weight(scores[4 * n + i], scale, i % 2 ? references.y : references.x);
    }
  }
  /* B3 */
  __device__ void differentiate(float (&d_scores)[BLOCK_Q / 2], const SplitSums<BLOCK_Q> &d_weights,
                                const SplitLeft<BLOCK_Q> &weights, float factor, const float (&delta)[BLOCK_Q]) {
#pragma unroll
    for (int n = 0; n < BLOCK_Q / 8; n++) {
      float2 deltas = *reinterpret_cast<const float2 *>(&delta[n * 8 + threadIdx.x % 4 * 2]);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int at = 4 * n + 2 * i;
        float2 pair = weights.get(at / 2);
        d_scores[at] = pair.x * (d_weights.get(at) * factor - deltas.x);
        d_scores[at + 1] = pair.y * (d_weights.get(at + 1) * factor - deltas.y);
      }
    }
  }

  __device__ void write(const Block &block, int first_row, const Sums &sums) {
    const MlaParams &p = a.params;
    constexpr float LESS = 1.f / (1 << WEIGHT_EXPONENT);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int key = block.first_key + first_row + row_of_thread() + 8 * i;
      Range seen = block.visibility.queries_of(key);
      bool is_there = key < p.skv, is_seen = seen.lo < seen.hi;
      float *nope = is_there ? row_of<float>(p.d_k, block.batch, key, block.kv_head) : nullptr, *rope = nullptr;
      if (is_there && a.partial_out) {
        int64_t place = (static_cast<int64_t>(block.batch) * p.hkv + block.kv_head) * p.skv + key;
        rope = static_cast<float *>(a.partial_out) + place * p.dr;
      } else if (is_there && p.dr) {
        rope = row_of<float>(p.d_k_rope, block.batch, key, block.kv_head);
      }
      write_row(nope, rope, sums.dk, i, p.dn, p.dn, p.dr, p.softmax_scale * LESS, is_seen);
      write_row(is_there ? row_of<float>(p.d_v, block.batch, key, block.kv_head) : nullptr, sums.dv, i, p.dv, LESS, is_seen);
    }
  }

  /* One tile of queries. */
  __device__ void step(Walk &walk, Sums &sums) {
    int q_index = walk.q_stage.index, d_out_index = walk.d_out_stage.index;
    const Factors &factors = shared.factors[q_index][walk.first_row / WARPGROUP_ROWS];
    float scores[BLOCK_Q / 2];
    SplitLeft<BLOCK_Q> left;
    SplitSums<BLOCK_Q> product;
    shared.q_full[q_index].wait(walk.q_stage.parity);
    product.begin(shared.k, walk.first_row, shared.q[q_index]);
    product.template wait<0>();
#pragma unroll
    for (int i = 0; i < BLOCK_Q / 2; i++) scores[i] = product.get(i);
    if (!walk.is_whole()) walk.hide_unseen_queries(scores, a.params);
    weigh(scores, factors.scores, shared.reference[q_index]);
    left.set(scores);
    shared.d_out_full[d_out_index].wait(walk.d_out_stage.parity);
    product.begin(shared.v, walk.first_row, shared.d_out[d_out_index]);
    product.template wait<0>();
    differentiate(scores, product, left, factors.d_weights, shared.delta[q_index]);
    add_product<PANEL>(sums.dv, left, shared.d_out[d_out_index], factors.d_out);
    leave(shared.d_out_empty[d_out_index]);
    float d_scores_factor = scale_to_halves(scores);
    left.set(scores);
    add_product<PANEL>(sums.dk, left, shared.q[q_index], factors.q * d_scores_factor);
    shared.q_empty[q_index].arrive(); /* every lane has itself read what lies beside the tile */
  }

  /* Of consumers that have the same keys, the first gets the sums of both. */
  __device__ void join(int consumer, Sums &sums, int parity) {
    static_assert(sizeof shared.k + sizeof shared.v >= WARPGROUP * sizeof sums, "the sums of a consumer");
    Given other(shared.k);
    if (consumer == 1) {
      shared.handover.give(parity, [&] {
        other.put(0, sums.dk);
        other.put(HEAD_QK / 2, sums.dv);
      });
    } else {
      shared.handover.take(parity, [&] {
        other.add_to(sums.dk, 0);
        other.add_to(sums.dv, HEAD_QK / 2);
      });
    }
  }

  __device__ void consume(int consumer) {
    Walk walk;
    walk.first_row = consumer * WARPGROUP_ROWS % BLOCK_K;
    int k_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(a.params); round++) {
      int tiles;
      {
        Block block(a, part);
        walk.begin(block);
        tiles = block.tiles;
      }
      Sums sums;
#pragma unroll
      for (int i = 0; i < HEAD_QK / 2; i++) sums.dk[i] = 0;
#pragma unroll
      for (int i = 0; i < HEAD_V / 2; i++) sums.dv[i] = 0;
      if (tiles > 0) {
        shared.k_full.wait(k_parity);
        for (int n = 0; n < tiles; n++) {
          if (TURNS == 1 || n % TURNS == consumer) step(walk, sums);
          walk.advance();
        }
        if (TURNS > 1) join(consumer, sums, k_parity);
        k_parity ^= 1;
        leave(shared.k_empty);
      }
      if (TURNS == 1 || consumer == 0) write(Block(a, forget(part)), walk.first_row, sums);
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
        wait_for_previous(); /* dQ, whose results are not read here: what comes next may read them */
      }
      if (threadIdx.x / 32 == 1) produce_rows();
    } else {
      take_registers<240>();
      consume(warpgroup - 1);
    }
  }
};

extern __shared__ __align__(1024) unsigned char shared_memory[];

#define KERNEL(QK, V, BLOCK_Q, BLOCK_K, ...)                                                                           \
  extern "C" __global__ void __launch_bounds__(SplitDkv<QK, V, BLOCK_Q, BLOCK_K, __VA_ARGS__>::THREADS, 1)             \
      mla_attention_dkv_f32_##QK##_##V##_##BLOCK_K(                                                                    \
          const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                 \
          const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,                                    \
          const __grid_constant__ TensorMap d_out) {                                                                   \
    using Kernel = SplitDkv<QK, V, BLOCK_Q, BLOCK_K, __VA_ARGS__>;                                                     \
    Kernel{a, q, k, v, d_out, *reinterpret_cast<Kernel::Shared *>(shared_memory)}.run();                               \
  }
MLA_SM90_ATTENTION_DKV_F32(KERNEL)
