/* Which part of the work a block of threads takes, and when. */
#pragma once

#include "../plan.h"
#include "../visibility.cuh"

/* The nth part for this block of threads, of all, which are sorted from the longest to the shortest: forth and back over
   the blocks of threads, so that none has the longest part of every round. */
__device__ inline int part_of_round(int round) {
  return round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

/* The same number, but what was computed of it before is not kept in registers for what is computed of it now. */
__device__ inline int forget(int number) {
  asm volatile("" : "+r"(number));
  return number;
}

/* Parts go through the heads at one rank, then through the next rank. Heads come in sections of a.splits, whose tensors
   stay in L2 meanwhile. */
struct Turn {
  int batch_head, rank;

  __device__ Turn(const MlaArguments &a, int heads, int ranks, int part) {
    int section = part / (a.splits * ranks), rest = part % (a.splits * ranks);
    int section_heads = min(a.splits, heads - section * a.splits);
    batch_head = section * a.splits + rest % section_heads;
    rank = rest / section_heads;
  }
};

/* BLOCK_Q queries of one head, and the tiles of keys that any of them sees, from the last to the first. The last queries,
   which see most under a causal mask, come first. */
template <int BLOCK_Q, int BLOCK_K>
struct QueryBlock {
  int batch, head, kv_head, first_query;
  Visibility visibility;
  int first_tile, tiles;

  __device__ QueryBlock(const MlaArguments &a, int part)
      : QueryBlock(a.params, Turn(a, a.params.batch * a.params.hq, blocks(a.params), part)) {}
  __device__ QueryBlock(const MlaParams &p, Turn turn)
      : batch(turn.batch_head / p.hq),
        head(turn.batch_head % p.hq),
        kv_head(head / (p.hq / p.hkv)),
        first_query((blocks(p) - 1 - turn.rank) * BLOCK_Q),
        visibility(p, batch) {
    Range keys = visibility.keys_of_any(first_query, BLOCK_Q);
    first_tile = keys.lo / BLOCK_K;
    tiles = keys.lo < keys.hi ? (keys.hi + BLOCK_K - 1) / BLOCK_K - first_tile : 0;
  }
  static __device__ int blocks(const MlaParams &p) { return (p.sq + BLOCK_Q - 1) / BLOCK_Q; }
  static __device__ int parts(const MlaParams &p) { return p.batch * p.hq * blocks(p); }

  /* The first key of the nth tile. */
  __device__ int key(int n) const { return (first_tile + tiles - 1 - n) * BLOCK_K; }
  /* Whether the first tile of all has keys that are past the length and still in memory. */
  __device__ bool is_past_length(const MlaParams &p) const {
    return visibility.kv_length < p.skv && key(0) + BLOCK_K > visibility.kv_length;
  }
};

/* BLOCK_K keys of one head, and the tiles of queries that see any of them: those of one query head after the other. The
   first keys, which most see under a causal mask, come first. */
template <int BLOCK_K, int BLOCK_Q>
struct KeyBlock {
  int batch, kv_head, first_head, first_key;
  Visibility visibility;
  int first_tile, head_tiles, tiles;

  __device__ KeyBlock(const MlaArguments &a, int part)
      : KeyBlock(a.params, Turn(a, a.params.batch * a.params.hkv, blocks(a.params), part)) {}
  __device__ KeyBlock(const MlaParams &p, Turn turn)
      : batch(turn.batch_head / p.hkv),
        kv_head(turn.batch_head % p.hkv),
        first_head(kv_head * (p.hq / p.hkv)),
        first_key(turn.rank * BLOCK_K),
        visibility(p, batch) {
    Range queries = visibility.queries_of_any(first_key, BLOCK_K);
    first_tile = queries.lo / BLOCK_Q;
    head_tiles = queries.lo < queries.hi ? (queries.hi + BLOCK_Q - 1) / BLOCK_Q - first_tile : 0;
    tiles = head_tiles * (p.hq / p.hkv);
  }
  static __device__ int blocks(const MlaParams &p) { return (p.skv + BLOCK_K - 1) / BLOCK_K; }
  static __device__ int parts(const MlaParams &p) { return p.batch * p.hkv * blocks(p); }

  /* The first query of the nth tile, and its head. */
  __device__ int query(int n) const { return (first_tile + n % head_tiles) * BLOCK_Q; }
  __device__ int head(int n) const { return first_head + n / head_tiles; }
};
