/* The walk of a consumer of mla_attention_dkv.cu and mla_attention_dkv_split.cu over the queries that see its 64 keys. */
#pragma once

#include "barrier.cuh"
#include "blocks.cuh"
#include "softmax.cuh"
#include "tile.cuh"

/* Where the consumer is. It holds few numbers beside the sums, which leave few registers; what masked tiles need more is
   computed there. */
template <int BLOCK_Q, int BLOCK_K, int Q_STAGES, int D_OUT_STAGES>
struct KeyWalk {
  int first_row, first_key, batch;   /* first_row: of the consumer's, among the keys of the block */
  int query, first_query, end_query; /* of the tile, and of all tiles of a head */
  Range whole;                       /* queries that see all keys of the consumer */
  Stage<Q_STAGES> q_stage;
  Stage<D_OUT_STAGES> d_out_stage;

  __device__ void begin(const KeyBlock<BLOCK_K, BLOCK_Q> &block) {
    first_key = block.first_key + first_row;
    batch = block.batch;
    query = first_query = block.first_tile * BLOCK_Q;
    end_query = first_query + block.head_tiles * BLOCK_Q;
    int last_key = first_key + WARPGROUP_ROWS - 1;
    whole = {block.visibility.queries_of(last_key).lo, block.visibility.queries_of(first_key).hi};
    if (last_key >= block.visibility.kv_length) whole.hi = 0;
  }
  __device__ bool is_whole() const { return query >= whole.lo && query + BLOCK_Q <= whole.hi; }
  __device__ void hide_unseen_queries(float (&scores)[BLOCK_Q / 2], const MlaParams &p) const {
    Visibility visibility(p, batch);
    int key = first_key + row_of_thread();
    Range seen[2] = {visibility.queries_of(key), visibility.queries_of(key + 8)};
    hide_unseen(scores, seen, query);
  }
  __device__ void advance() {
    query += BLOCK_Q;
    if (query == end_query) query = first_query;
    q_stage.advance();
    d_out_stage.advance();
  }
  __device__ int last_q() const { return (q_stage.index + Q_STAGES - 1) % Q_STAGES; }
  __device__ int last_d_out() const { return (d_out_stage.index + D_OUT_STAGES - 1) % D_OUT_STAGES; }
};
