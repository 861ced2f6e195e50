/* The gradient of the queries on sm_90, steps B2 to B4 of gradients/README.md, of float32 as split halves. */
#include "gradient.cuh"
#include "split_queries.cuh"
#include "tiles.h"

template <int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int K_STAGES, int V_STAGES>
struct SplitDq {
  using Queries = SplitQueries<HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, K_STAGES, V_STAGES>;
  using Block = typename Queries::Block;
  static constexpr int TURNS = Queries::TURNS;

  struct DOut {
    SplitTile<BLOCK_Q, HEAD_V> d_out;
  };
  struct Shared : DOut, Queries::Shared {};

  const MlaArguments &a;
  const TensorMap &q, &k, &v, &d_out;
  Shared &shared;

  __device__ void write(const Block &block, int row, const float (&sums)[HEAD_QK / 2], const Range (&seen)[2]) {
    const MlaParams &p = a.params;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int query = row + 8 * i;
      bool is_there = query < p.sq;
      float *nope = is_there ? row_of<float>(p.d_q, block.batch, query, block.head) : nullptr;
      float *rope = is_there && p.dr ? row_of<float>(p.d_q_rope, block.batch, query, block.head) : nullptr;
      write_row(nope, rope, sums, i, p.dn, p.dn, p.dr, p.softmax_scale, seen[i].lo < seen[i].hi);
    }
  }

  /* Of consumers that have the same queries, the first gets the sums of both. */
  __device__ void join(int consumer, float (&sums)[HEAD_QK / 2], int parity) {
    Given other(shared.q);
    if (consumer == 1)
      shared.handover.give(parity, [&] { other.put(0, sums); });
    else
      shared.handover.take(parity, [&] { other.add_to(sums, 0); });
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
      const float q_factor = factor_of<SplitHalf>(a, MLA_SPLIT_Q, block.batch, block.head, first_query);
      const float d_out_factor = factor_of<SplitHalf>(a, MLA_SPLIT_D_OUT, block.batch, block.head, first_query);
      const float score_scale = p.softmax_scale * LOG2_E * q_factor;
      float reference[2], delta[2], sums[HEAD_QK / 2] = {};
#pragma unroll
      for (int i = 0; i < 2; i++) {
        bool is_there = row + 8 * i < block.visibility.q_length;
        int64_t index = (static_cast<int64_t>(block.batch) * p.hq + block.head) * p.sq + row + 8 * i;
        reference[i] = is_there ? weight_reference(p.lse[index]) : INFINITY;
        delta[i] = is_there ? p.delta[index] : 0;
      }
      if (block.tiles > 0) shared.q_full.wait(q_parity);
      for (int n = 0; n < block.tiles; n++, k_stage.advance(), v_stage.advance()) {
        if (TURNS > 1 && n % TURNS != consumer) continue;
        SplitSums<BLOCK_K> score_sums, d_weight_sums;
        SplitLeft<BLOCK_K> d_scores;
        float numbers[BLOCK_K / 2]; /* scores, weights, dS */
        shared.k_full[k_stage.index].wait(k_stage.parity);
        score_sums.begin(shared.q, first_row, shared.k[k_stage.index]);
        shared.v_full[v_stage.index].wait(v_stage.parity);
        d_weight_sums.begin(shared.d_out, first_row, shared.v[v_stage.index]);
        const auto factors = shared.factors[k_stage.index];
        score_sums.template wait<1>();
#pragma unroll
        for (int i = 0; i < BLOCK_K / 2; i++) numbers[i] = score_sums.get(i);
        if (!block.visibility.is_whole(first_query, WARPGROUP_ROWS, block.key(n), BLOCK_K))
          hide_unseen(numbers, seen, block.key(n));
#pragma unroll
        for (int i = 0; i < BLOCK_K / 2; i++)
          numbers[i] = weight(numbers[i], score_scale * factors.k, reference[i / 2 % 2]);
        d_weight_sums.template wait<0>();
        leave(shared.v_empty[v_stage.index]);
#pragma unroll
        for (int i = 0; i < BLOCK_K / 2; i++)
          numbers[i] *= d_weight_sums.get(i) * (d_out_factor * factors.v) - delta[i / 2 % 2];
        const float d_scores_factor = scale_to_halves(numbers);
        d_scores.set(numbers);
        add_product<HEAD_QK>(sums, d_scores, shared.k[k_stage.index], factors.k * d_scores_factor);
        shared.k_empty[k_stage.index].arrive();
      }
      if (block.tiles > 0) {
        if (TURNS > 1) join(consumer, sums, q_parity);
        q_parity ^= 1;
        leave(shared.q_empty);
      }
      if (TURNS == 1 || consumer == 0) write(block, row, sums, seen);
    }
  }

  __device__ void run() {
    if (threadIdx.x == 0) shared.init();
    wait_for_previous();
    start_dependents(); /* dK and dV */
    __syncthreads();
    int warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
      give_registers<24>();
      if (threadIdx.x == 0)
        Queries::produce(a, k, v, shared, sizeof shared.q + sizeof shared.d_out, [&](const Block &block) {
          copy_tile(shared.q, q, block.first_query, block.head, block.batch, shared.q_full);
          copy_tile(shared.d_out, d_out, block.first_query, block.head, block.batch, shared.q_full);
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
      mla_attention_dq_f32_##QK##_##V##_##BLOCK_Q(                                                                     \
          const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                 \
          const __grid_constant__ TensorMap k, const __grid_constant__ TensorMap v,                                    \
          const __grid_constant__ TensorMap d_out) {                                                                   \
    using Kernel = SplitDq<QK, V, BLOCK_Q, __VA_ARGS__>;                                                               \
    Kernel{a, q, k, v, d_out, *reinterpret_cast<Kernel::Shared *>(shared_memory)}.run();                               \
  }
MLA_SM90_ATTENTION_DQ_F32(KERNEL)
