/* The gradient of the queries, steps B2 to B4 of gradients/README.md, on sm_90. Like the forward (forward.cuh), a block
   takes BLOCK_Q queries of one head and walks the keys that they see, here in tiles of BLOCK_K, with a producer and two
   consumers. Keys stay until dQ has had them; values go earlier and have a ring of their own.

   A consumer makes weights while dOut · V^T is multiplied, and of the sum's products those of one tile go on while the
   next tile's scores are begun. */
#include "blocks.cuh"
#include "gradient.cuh"
#include "tile.cuh"
#include "tiles.h"

template <typename T, typename Out, int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int K_STAGES, int V_STAGES>
struct Dq {
  static constexpr int CONSUMERS = 2;
  static_assert(BLOCK_Q == WARPGROUP_ROWS * CONSUMERS);
  static constexpr int CONSUMER_THREADS = WARPGROUP * CONSUMERS;
  static constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
  using Block = QueryBlock<BLOCK_Q, BLOCK_K>;
  enum NamedBarrier { CLEARED = 1 };

  struct Shared {
    Tile<T, BLOCK_Q, HEAD_QK> q;
    Tile<T, BLOCK_Q, HEAD_V> d_out;
    Tile<T, BLOCK_K, HEAD_QK> k[K_STAGES];
    Tile<T, BLOCK_K, HEAD_V> v[V_STAGES];
    Barrier q_full, q_empty, k_full[K_STAGES], k_empty[K_STAGES], v_full[V_STAGES], v_empty[V_STAGES];
  };

  const MlaArguments &a;
  RowsMap q, q_rope, k, k_rope, v, d_out;
  Shared &shared;

  __device__ void init_barriers() {
    constexpr int CONSUMER_WARPS = CONSUMER_THREADS / 32;
    shared.q_full.init(1);
    shared.q_empty.init(CONSUMER_WARPS);
    for (int stage = 0; stage < K_STAGES; stage++) {
      shared.k_full[stage].init(1);
      shared.k_empty[stage].init(CONSUMER_WARPS);
    }
    for (int stage = 0; stage < V_STAGES; stage++) {
      shared.v_full[stage].init(1);
      shared.v_empty[stage].init(CONSUMER_WARPS);
    }
    publish_barriers();
  }

  __device__ void produce() {
    const MlaParams &p = a.params;
    Stage<K_STAGES> k_stage;
    Stage<V_STAGES> v_stage;
    int q_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      if (block.tiles == 0) continue;
      shared.q_empty.wait(q_parity ^ 1);
      q_parity ^= 1;
      shared.q_full.arrive_and_expect(sizeof shared.q + sizeof shared.d_out);
      copy_tile(shared.q, q, q_rope, p.dn, block.first_query, block.head, block.batch, shared.q_full);
      copy_tile(shared.d_out, d_out, block.first_query, block.head, block.batch, shared.q_full);
      for (int n = 0; n < block.tiles; n++) {
        Barrier &k_full = shared.k_full[k_stage.index], &v_full = shared.v_full[v_stage.index];
        shared.k_empty[k_stage.index].wait(k_stage.parity ^ 1);
        k_full.arrive_and_expect(sizeof shared.k[0]);
        copy_tile(shared.k[k_stage.index], k, k_rope, p.dn, block.key(n), block.kv_head, block.batch, k_full);
        shared.v_empty[v_stage.index].wait(v_stage.parity ^ 1);
        v_full.arrive_and_expect(sizeof shared.v[0]);
        copy_tile(shared.v[v_stage.index], v, block.key(n), block.kv_head, block.batch, v_full);
        k_stage.advance();
        v_stage.advance();
      }
    }
  }

  /* Clears the keys and values past the length in the block's first tile. */
  __device__ void clear_past_length(const Block &block, int k_stage, int v_stage) {
    int row = block.visibility.kv_length - block.key(0), thread = threadIdx.x - WARPGROUP;
    shared.k[k_stage].clear_from(row, thread, CONSUMER_THREADS);
    shared.v[v_stage].clear_from(row, thread, CONSUMER_THREADS);
    publish_shared_memory();
    named_sync(CLEARED, CONSUMER_THREADS);
  }

  __device__ void write(const Block &block, int row, const float (&sums)[HEAD_QK / 2], const GradientScale<T> &scale,
                        const Range (&seen)[2]) {
    const MlaParams &p = a.params;
    int rope_column = (p.dn + PANEL - 1) / PANEL * PANEL;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int query = row + 8 * i;
      bool is_there = query < p.sq;
      Out *nope = is_there ? row_of<Out>(p.d_q, block.batch, query, block.head) : nullptr;
      Out *rope = is_there && p.dr ? row_of<Out>(p.d_q_rope, block.batch, query, block.head) : nullptr;
      write_row(nope, rope, sums, i, p.dn, rope_column, p.dr,
                p.softmax_scale * scale.gradient_factor(i), seen[i].lo < seen[i].hi);
    }
  }

  __device__ void consume(int consumer) {
    const MlaParams &p = a.params;
    float score_scale = p.softmax_scale * LOG2_E;
    Stage<K_STAGES> k_stage;
    Stage<V_STAGES> v_stage;
    int q_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      int first_row = block.first_query + consumer * WARPGROUP_ROWS, row = first_row + row_of_thread();
      Range seen[2] = {block.visibility.keys_of(row), block.visibility.keys_of(row + 8)};
      GradientScale<T> scale(a.partial_lse);
      float reference[2], delta[2], scores[BLOCK_K / 2], d_weights[BLOCK_K / 2], sums[HEAD_QK / 2];
      unsigned d_scores[BLOCK_K / 16][4];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        bool is_there = row + 8 * i < block.visibility.q_length;
        int64_t index = (static_cast<int64_t>(block.batch) * p.hq + block.head) * p.sq + row + 8 * i;
        reference[i] = is_there ? weight_reference(p.lse[index]) : INFINITY;
        delta[i] = is_there ? p.delta[index] * scale.d_out_power(a.partial_lse) : 0;
      }
#pragma unroll
      for (int i = 0; i < HEAD_QK / 2; i++) sums[i] = 0;
      if (block.tiles > 0) {
        shared.q_full.wait(q_parity);
        q_parity ^= 1;
      }
      Stage<K_STAGES> last;
      for (int n = 0; n < block.tiles; n++) {
        shared.k_full[k_stage.index].wait(k_stage.parity);
        if (n == 0 && block.is_past_length(p)) {
          shared.v_full[v_stage.index].wait(v_stage.parity);
          clear_past_length(block, k_stage.index, v_stage.index);
        }
        begin_product(scores, shared.q, consumer * WARPGROUP_ROWS, shared.k[k_stage.index]);
        wait_for_products<0>(scores);
        shared.v_full[v_stage.index].wait(v_stage.parity);
        begin_product(d_weights, shared.d_out, consumer * WARPGROUP_ROWS, shared.v[v_stage.index]);
        if (n > 0) leave(shared.k_empty[last.index]);
        if (!block.visibility.is_whole(first_row, WARPGROUP_ROWS, block.key(n), BLOCK_K))
          hide_unseen(scores, seen, block.key(n));
#pragma unroll
        for (int i = 0; i < BLOCK_K / 2; i++) scores[i] = weight(scores[i], score_scale, reference[i / 2 % 2]);
        wait_for_products<0>(d_weights);
        leave(shared.v_empty[v_stage.index]);
#pragma unroll
        for (int i = 0; i < BLOCK_K / 2; i++) d_weights[i] = scores[i] * (d_weights[i] - delta[i / 2 % 2]);
        scale.fit(d_weights, sums);
        pack_left(d_scores, d_weights, T());
        begin_addition(sums, d_scores, shared.k[k_stage.index]);
        last = k_stage;
        k_stage.advance();
        v_stage.advance();
      }
      wait_for_products<0>(sums);
      if (block.tiles > 0) {
        leave(shared.k_empty[last.index]);
        leave(shared.q_empty);
      }
      write(block, row, sums, scale, seen);
    }
  }

  __device__ void run() {
    if (threadIdx.x == 0) init_barriers();
    __syncthreads();
    wait_for_previous(); /* delta, or the conversion */
    start_dependents(); /* dK and dV */
    int warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
      give_registers<24>();
      if (threadIdx.x == 0) produce();
    } else {
      take_registers<240>();
      consume(warpgroup - 1);
    }
  }
};

extern __shared__ __align__(1024) unsigned char shared_memory[];

#define KERNEL(NAME, ...)                                                                                              \
  extern "C" __global__ void __launch_bounds__(Dq<__VA_ARGS__>::THREADS, 1)                                            \
      NAME(const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                \
           const __grid_constant__ TensorMap q_rope, const __grid_constant__ TensorMap k,                              \
           const __grid_constant__ TensorMap k_rope, const __grid_constant__ TensorMap v,                              \
           const __grid_constant__ TensorMap d_out) {                                                                  \
    const MlaParams &p = a.params;                                                                                     \
    using Kernel = Dq<__VA_ARGS__>;                                                                                    \
    Kernel{a, {q, p.q}, {q_rope, p.q_rope}, {k, p.k}, {k_rope, p.k_rope}, {v, p.v}, {d_out, p.d_out},                  \
           *reinterpret_cast<Kernel::Shared *>(shared_memory)}.run();                                                  \
  }
#define KERNELS(QK, V, ...)                                                                                            \
  KERNEL(mla_attention_dq_f16_##QK##_##V, __half, __half, QK, V, __VA_ARGS__)                                          \
  KERNEL(mla_attention_dq_bf16_##QK##_##V, __nv_bfloat16, __nv_bfloat16, QK, V, __VA_ARGS__)                           \
  KERNEL(mla_attention_dq_f16_f32_##QK##_##V, __half, float, QK, V, __VA_ARGS__)                                       \
  KERNEL(mla_attention_dq_bf16_f32_##QK##_##V, __nv_bfloat16, float, QK, V, __VA_ARGS__)
MLA_SM90_ATTENTION_DQ(KERNELS)
