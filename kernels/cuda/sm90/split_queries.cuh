/* What the forward and dQ of split halves (split.cuh) share: a block takes BLOCK_Q queries of one head and walks the keys that
   they see in tiles of BLOCK_K, from the last to the first. One warpgroup, the producer, fills a ring of keys and one of
   values; each of two consumers multiplies 64 of the queries with them, or both the same 64 with every other tile: then one
   gives the other what it has at the end.

   As sums are of parts, a tile's products end before the next tile's begin; so one consumer computes weights or adds its parts
   while the other multiplies. */
#pragma once

#include "blocks.cuh"
#include "split.cuh"

template <int HEAD_QK, int HEAD_V, int BLOCK_Q, int BLOCK_K, int K_STAGES, int V_STAGES>
struct SplitQueries {
  static constexpr int CONSUMERS = 2;
  static constexpr int TURNS = CONSUMERS * WARPGROUP_ROWS / BLOCK_Q; /* consumers that have the same queries */
  static_assert(TURNS == 1 || TURNS == CONSUMERS);
  static_assert(MLA_SPLIT_ROWS == WARPGROUP_ROWS && is_in_a_chunk<SplitHalf, BLOCK_K>, "tiles have one factor");
  static constexpr int CONSUMER_THREADS = WARPGROUP * CONSUMERS;
  static constexpr int TILE_THREADS = CONSUMER_THREADS / TURNS; /* that read a tile of keys */
  static constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
  using Block = QueryBlock<BLOCK_Q, BLOCK_K>;

  struct Factors {
    float k, v;
  };
  struct Shared {
    SplitTile<BLOCK_Q, HEAD_QK> q;
    SplitTile<BLOCK_K, HEAD_QK> k[K_STAGES];
    SplitTile<BLOCK_K, HEAD_V> v[V_STAGES];
    Factors factors[K_STAGES];
    Barrier q_full, q_empty, k_full[K_STAGES], k_empty[K_STAGES], v_full[V_STAGES], v_empty[V_STAGES];
    Handover handover;

    __device__ void init() {
      q_full.init(1);
      q_empty.init(CONSUMER_THREADS / 32);
      for (int stage = 0; stage < K_STAGES; stage++) {
        k_full[stage].init(1);
        k_empty[stage].init(TILE_THREADS); /* every lane reads the factors */
      }
      for (int stage = 0; stage < V_STAGES; stage++) {
        v_full[stage].init(1);
        v_empty[stage].init(TILE_THREADS / 32);
      }
      handover.init();
      publish_barriers();
    }
  };

  /* copy_queries(block) begins to copy a block's queries, for which shared.q_full has been told of query_bytes. */
  template <typename COPY>
  static __device__ void produce(const MlaArguments &a, const TensorMap &k, const TensorMap &v, Shared &shared,
                                 unsigned query_bytes, COPY copy_queries) {
    Stage<K_STAGES> k_stage;
    Stage<V_STAGES> v_stage;
    int q_parity = 0;
    for (int round = 0, part; (part = part_of_round(round)) < Block::parts(a.params); round++) {
      Block block(a, part);
      if (block.tiles == 0) continue;
      shared.q_empty.wait(q_parity ^ 1);
      q_parity ^= 1;
      shared.q_full.arrive_and_expect(query_bytes);
      copy_queries(block);
      for (int n = 0; n < block.tiles; n++) {
        Barrier &k_full = shared.k_full[k_stage.index], &v_full = shared.v_full[v_stage.index];
        Factors factors = {factor_of<SplitHalf>(a, MLA_SPLIT_K, block.batch, block.kv_head, block.key(n)),
                           factor_of<SplitHalf>(a, MLA_SPLIT_V, block.batch, block.kv_head, block.key(n))};
        shared.k_empty[k_stage.index].wait(k_stage.parity ^ 1);
        shared.factors[k_stage.index] = factors;
        k_full.arrive_and_expect(sizeof shared.k[0]);
        copy_tile(shared.k[k_stage.index], k, block.key(n), block.kv_head, block.batch, k_full);
        shared.v_empty[v_stage.index].wait(v_stage.parity ^ 1);
        v_full.arrive_and_expect(sizeof shared.v[0]);
        copy_tile(shared.v[v_stage.index], v, block.key(n), block.kv_head, block.batch, v_full);
        k_stage.advance();
        v_stage.advance();
      }
    }
  }
};
