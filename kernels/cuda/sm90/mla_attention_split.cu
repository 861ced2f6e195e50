/* The forward of MLAAttention on sm_90, steps F1 to F4 of gradients/README.md, of float32 as split halves. */
#include "softmax.cuh"
#include "split_queries.cuh"
#include "tiles.h"

template <int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int K_STAGES, int V_STAGES>
struct SplitForward {
  using Queries = SplitQueries<HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, K_STAGES, V_STAGES>;
  using Block = typename Queries::Block;
  using Shared = typename Queries::Shared;
  static constexpr int TURNS = Queries::TURNS;

  const MlaArguments &a;
  const TensorMap &q, &k, &v;
  Shared &shared;

  /* What a consumer has of its queries. */
  struct State {
    OnlineSoftmax softmax{1}; /* scores come multiplied */
    float sums[HEAD_V / 2] = {};

    __device__ void scale_sums(const float (&factor)[2]) {
#pragma unroll
      for (int i = 0; i < HEAD_V / 2; i++) sums[i] *= factor[i / 2 % 2];
    }
  };

  /* Of consumers that have the same queries, the first gets the state of both. */
  __device__ void join(int consumer, State &state, int parity) {
    OnlineSoftmax &softmax = state.softmax;
    Given other(shared.q);
    if (consumer == 1) {
      shared.handover.give(parity, [&] {
        other.put(0, softmax.largest);
        other.put(2, softmax.sum);
        other.put(4, state.sums);
      });
    } else {
      shared.handover.take(parity, [&] {
        float largest[2], sum[2], most[2], factor[2], other_factor[2];
        other.get(0, largest);
        other.get(2, sum);
#pragma unroll
        for (int i = 0; i < 2; i++) {
          most[i] = fmaxf(softmax.largest[i], largest[i]);
          other_factor[i] = largest[i] == most[i] ? 1 : exp2_fast((largest[i] - most[i]) * softmax.scale);
        }
        softmax.refer_to(most, factor);
        state.scale_sums(factor);
#pragma unroll
        for (int i = 0; i < 2; i++) softmax.sum[i] += other_factor[i] * sum[i];
#pragma unroll
        for (int i = 0; i < HEAD_V / 2; i++) state.sums[i] += other_factor[i / 2 % 2] * other.get(4 + i);
      });
    }
  }

  __device__ void write(const Block &block, int row, const State &state) {
    const MlaParams &p = a.params;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int query = row + 8 * i;
      float sum = state.softmax.whole_sum(i);
      float *out = query < p.sq ? row_of<float>(p.out, block.batch, query, block.head) : nullptr;
      write_row(out, state.sums, i, p.dv, sum > 0 ? 1 / sum : 0, sum > 0);
      if (out && threadIdx.x % 4 == 0)
        p.lse[(static_cast<int64_t>(block.batch) * p.hq + block.head) * p.sq + query] = state.softmax.lse(i, sum);
    }
  }

  __device__ void consume(int consumer) {
    const MlaParams &p = a.params;
    const int first_row = consumer * WARPGROUP_ROWS % BLOCK_Q;
    Stage<K_STAGES> k_stage;
    Stage<V_STAGES> v_stage;
    int q_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      int first_query = block.first_query + first_row, row = first_query + row_of_thread();
      Range seen[2] = {block.visibility.keys_of(row), block.visibility.keys_of(row + 8)};
      const float scale = p.softmax_scale * factor_of<SplitHalf>(a, MLA_SPLIT_Q, block.batch, block.head, first_query);
      State state;
      if (block.tiles > 0) shared.q_full.wait(q_parity);
      for (int n = 0; n < block.tiles; n++, k_stage.advance(), v_stage.advance()) {
        if (TURNS > 1 && n % TURNS != consumer) continue;
        SplitSums<BLOCK_K> product;
        SplitLeft<BLOCK_K> weights;
        float scores[BLOCK_K / 2], factor[2];
        shared.k_full[k_stage.index].wait(k_stage.parity);
        product.begin(shared.q, first_row, shared.k[k_stage.index]);
        const auto factors = shared.factors[k_stage.index];
        product.template wait<0>();
        shared.k_empty[k_stage.index].arrive();
#pragma unroll
        for (int i = 0; i < BLOCK_K / 2; i++) scores[i] = product.get(i) * (scale * factors.k);
        if (!block.visibility.is_whole(first_query, WARPGROUP_ROWS, block.key(n), BLOCK_K))
          hide_unseen(scores, seen, block.key(n));
        state.softmax.weigh(scores, factor);
        state.scale_sums(factor);
        weights.set(scores);
        shared.v_full[v_stage.index].wait(v_stage.parity);
        add_product<HEAD_V>(state.sums, weights, shared.v[v_stage.index], factors.v);
        leave(shared.v_empty[v_stage.index]);
      }
      if (block.tiles > 0) {
        if (TURNS > 1) join(consumer, state, q_parity);
        q_parity ^= 1;
        leave(shared.q_empty);
      }
      if (TURNS == 1 || consumer == 0) write(block, row, state);
    }
  }

  __device__ void run() {
    if (threadIdx.x == 0) shared.init();
    wait_for_previous();
    __syncthreads();
    int warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
      give_registers<24>();
      if (threadIdx.x == 0)
        Queries::produce(a, k, v, shared, sizeof shared.q, [&](const Block &block) {
          copy_tile(shared.q, q, block.first_query, block.head, block.batch, shared.q_full);
        });
    } else {
      take_registers<240>();
      consume(warpgroup - 1);
    }
  }
};

extern __shared__ __align__(1024) unsigned char shared_memory[];

#define KERNEL(QK, V, BLOCK_Q, ...)                                                                                    \
  extern "C" __global__ void __launch_bounds__(SplitQueries<QK, V, BLOCK_Q, __VA_ARGS__>::THREADS, 1)                  \
      mla_attention_f32_##QK##_##V##_##BLOCK_Q(                                                                        \
          const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                 \
          const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v) {                                  \
    using Kernel = SplitForward<QK, V, BLOCK_Q, __VA_ARGS__>;                                                          \
    Kernel{a, q, k, v, *reinterpret_cast<Kernel::Shared *>(shared_memory)}.run();                                      \
  }
MLA_SM90_ATTENTION_F32(KERNEL)
