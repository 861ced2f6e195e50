/* The forward of MLAAttention, steps F1 to F4 of gradients/README.md, on sm_90. A block takes BLOCK_Q queries of one head
   and walks the keys that they see in tiles of BLOCK_K, from the last to the first. One warpgroup, the producer, lets TMA
   fill a ring of STAGES tiles of keys and values; each of the others, the CONSUMERS, multiplies 64 of the queries with it.

   Where results are float32 the queries are too: each consumer converts those of its own rows, which nobody else reads, while
   the launch before converts keys and values.

   A consumer begins the scores of the next tile before it adds this tile's values, and makes weights of those scores while
   the values are added. Two consumers take turns to begin products, so that one is in its softmax while the other
   multiplies. */
#pragma once

#include "blocks.cuh"
#include "softmax.cuh"
#include "tile.cuh"

template <typename T, typename Out, int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int STAGES>
struct Forward {
  static constexpr int CONSUMERS = BLOCK_Q / WARPGROUP_ROWS;
  static constexpr int CONSUMER_THREADS = WARPGROUP * CONSUMERS;
  static constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
  static constexpr bool CONVERTS_QUERIES = sizeof(T) != sizeof(Out);
  using Block = QueryBlock<BLOCK_Q, BLOCK_K>;
  enum NamedBarrier { CLEARED = 1, TURN = 2, QUERIES = 4 }; /* TURN + w is the turn of consumer w, QUERIES + w its rows */

  struct Shared {
    Tile<T, BLOCK_Q, HEAD_QK> q;
    Tile<T, BLOCK_K, HEAD_QK> k[STAGES];
    Tile<T, BLOCK_K, HEAD_V> v[STAGES];
    Barrier q_full, q_empty, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
  };

  const MlaArguments &a;
  RowsMap q, q_rope, k, k_rope, v;
  Shared &shared;

  __device__ void init_barriers() {
    constexpr int CONSUMER_WARPS = CONSUMER_THREADS / 32;
    shared.q_full.init(1);
    shared.q_empty.init(CONSUMER_WARPS);
    for (int stage = 0; stage < STAGES; stage++) {
      shared.k_full[stage].init(1);
      shared.v_full[stage].init(1);
      shared.k_empty[stage].init(CONSUMER_WARPS);
      shared.v_empty[stage].init(CONSUMER_WARPS);
    }
    publish_barriers();
  }

  __device__ void produce() {
    const MlaParams &p = a.params;
    Stage<STAGES> k_stage, v_stage;
    int q_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      if (block.tiles == 0) continue;
      if (!CONVERTS_QUERIES) {
        shared.q_empty.wait(q_parity ^ 1);
        q_parity ^= 1;
        shared.q_full.arrive_and_expect(sizeof shared.q);
        copy_tile(shared.q, q, q_rope, p.dn, block.first_query, block.head, block.batch, shared.q_full);
      }
      for (int n = 0; n <= block.tiles; n++) {
        if (n < block.tiles) {
          Barrier &full = shared.k_full[k_stage.index];
          shared.k_empty[k_stage.index].wait(k_stage.parity ^ 1);
          full.arrive_and_expect(sizeof shared.k[0]);
          copy_tile(shared.k[k_stage.index], k, k_rope, p.dn, block.key(n), block.kv_head, block.batch, full);
          k_stage.advance();
        }
        if (n > 0) {
          Barrier &full = shared.v_full[v_stage.index];
          shared.v_empty[v_stage.index].wait(v_stage.parity ^ 1);
          full.arrive_and_expect(sizeof shared.v[0]);
          copy_tile(shared.v[v_stage.index], v, block.key(n - 1), block.kv_head, block.batch, full);
          v_stage.advance();
        }
      }
    }
  }

  /* A consumer's rows of a block's queries, in place of what TMA would write. */
  __device__ void convert_queries(const Block &block, int consumer) {
    constexpr int EIGHTS = HEAD_QK / 8, OWN = WARPGROUP_ROWS * EIGHTS / WARPGROUP; /* of a row, of a thread */
    const MlaParams &p = a.params;
    const int thread = threadIdx.x % WARPGROUP, rope_first = (p.dn + PANEL - 1) / PANEL * PANEL;
    float4 low[OWN], high[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      int row = (i * WARPGROUP + thread) / EIGHTS, column = (i * WARPGROUP + thread) % EIGHTS * 8;
      int query = block.first_query + consumer * WARPGROUP_ROWS + row;
      bool is_rope = column >= rope_first;
      if (is_rope) column -= rope_first;
      low[i] = high[i] = float4{};
      if (query >= p.sq || column >= (is_rope ? p.dr : p.dn)) continue;
      const float *from = row_of<const float>(is_rope ? p.q_rope : p.q, block.batch, query, block.head) + column;
      low[i] = __ldcs(reinterpret_cast<const float4 *>(from));
      high[i] = __ldcs(reinterpret_cast<const float4 *>(from) + 1);
    }
    named_sync(QUERIES + consumer, WARPGROUP); /* the products with the last ones are done */
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      int row = (i * WARPGROUP + thread) / EIGHTS, eight = (i * WARPGROUP + thread) % EIGHTS;
      T *panel_row = shared.q.panels[eight / 8][consumer * WARPGROUP_ROWS + row];
      *reinterpret_cast<uint4 *>(panel_row + (eight ^ row) % 8 * 8) =
          uint4{pack_input(low[i].x, low[i].y, T()), pack_input(low[i].z, low[i].w, T()),
                pack_input(high[i].x, high[i].y, T()), pack_input(high[i].z, high[i].w, T())};
    }
    publish_shared_memory();
    named_sync(QUERIES + consumer, WARPGROUP);
  }

  static __device__ void wait_for_turn(int consumer) {
    if (CONSUMERS == 2) named_sync(TURN + consumer, CONSUMER_THREADS);
  }
  static __device__ void end_turn(int consumer) {
    if (CONSUMERS == 2) named_arrive(TURN + (consumer ^ 1), CONSUMER_THREADS);
  }
  static __device__ void scale_sums(float (&sums)[HEAD_V / 2], const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < HEAD_V / 2; i++) sums[i] *= factor[i / 2 % 2];
  }

  __device__ void write(const Block &block, int row, const float (&sums)[HEAD_V / 2], const OnlineSoftmax &softmax) {
    const MlaParams &p = a.params;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int query = row + 8 * i;
      float sum = softmax.whole_sum(i);
      Out *out = query < p.sq ? row_of<Out>(p.out, block.batch, query, block.head) : nullptr;
      write_row(out, sums, i, p.dv, sum > 0 ? 1 / sum : 0, sum > 0);
      if (out && threadIdx.x % 4 == 0)
        p.lse[(static_cast<int64_t>(block.batch) * p.hq + block.head) * p.sq + query] = softmax.lse(i, sum);
    }
  }

  __device__ void consume(int consumer) {
    const MlaParams &p = a.params;
    int consumer_thread = threadIdx.x - WARPGROUP;
    Stage<STAGES> k_stage, v_stage;
    int q_parity = 0;
    if (consumer == 1) end_turn(consumer);
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(p); round++) {
      Block block(a, part);
      int first_row = block.first_query + consumer * WARPGROUP_ROWS, row = first_row + row_of_thread();
      Range seen[2] = {block.visibility.keys_of(row), block.visibility.keys_of(row + 8)};
      OnlineSoftmax softmax(p.softmax_scale);
      float scores[BLOCK_K / 2], sums[HEAD_V / 2], factor[2];
      unsigned weights[BLOCK_K / 16][4];
#pragma unroll
      for (int i = 0; i < HEAD_V / 2; i++) sums[i] = 0;
      if (block.tiles > 0) {
        if (CONVERTS_QUERIES) {
          convert_queries(block, consumer);
        } else {
          shared.q_full.wait(q_parity);
          q_parity ^= 1;
        }
        shared.k_full[k_stage.index].wait(k_stage.parity);
        wait_for_turn(consumer);
        begin_product(scores, shared.q, consumer * WARPGROUP_ROWS, shared.k[k_stage.index]);
        end_turn(consumer);
        wait_for_products<0>(scores);
        leave(shared.k_empty[k_stage.index]);
        k_stage.advance();
        if (!block.visibility.is_whole(first_row, WARPGROUP_ROWS, block.key(0), BLOCK_K))
          hide_unseen(scores, seen, block.key(0));
        softmax.weigh(scores, factor);
        pack_left(weights, scores, T());
        if (block.is_past_length(p)) {
          shared.v_full[v_stage.index].wait(v_stage.parity);
          shared.v[v_stage.index].clear_from(block.visibility.kv_length - block.key(0), consumer_thread, CONSUMER_THREADS);
          publish_shared_memory();
          named_sync(CLEARED, CONSUMER_THREADS);
        }
        for (int n = 1; n < block.tiles; n++) {
          shared.k_full[k_stage.index].wait(k_stage.parity);
          wait_for_turn(consumer);
          begin_product(scores, shared.q, consumer * WARPGROUP_ROWS, shared.k[k_stage.index]);
          shared.v_full[v_stage.index].wait(v_stage.parity);
          begin_addition(sums, weights, shared.v[v_stage.index]);
          end_turn(consumer);
          wait_for_products<1>(scores);
          leave(shared.k_empty[k_stage.index]);
          k_stage.advance();
          if (!block.visibility.is_whole(first_row, WARPGROUP_ROWS, block.key(n), BLOCK_K))
            hide_unseen(scores, seen, block.key(n));
          softmax.weigh(scores, factor);
          wait_for_products<0>(sums);
          leave(shared.v_empty[v_stage.index]);
          v_stage.advance();
          scale_sums(sums, factor);
          pack_left(weights, scores, T());
        }
        if (!CONVERTS_QUERIES) leave(shared.q_empty);
        shared.v_full[v_stage.index].wait(v_stage.parity);
        begin_addition(sums, weights, shared.v[v_stage.index]);
        wait_for_products<0>(sums);
        leave(shared.v_empty[v_stage.index]);
        v_stage.advance();
      }
      write(block, row, sums, softmax);
    }
    if (consumer == 0) wait_for_turn(consumer);
  }

  __device__ void run() {
    if (threadIdx.x == 0) init_barriers();
    __syncthreads();
    int warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
      give_registers<CONSUMERS == 2 ? 24 : 40>();
      if (threadIdx.x == 0) {
        if (CONVERTS_QUERIES) wait_for_previous(); /* the conversion of keys and values */
        produce();
      }
    } else {
      take_registers<CONSUMERS == 2 ? 240 : 216>();
      consume(warpgroup - 1);
    }
  }
};
