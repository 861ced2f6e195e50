/* The forward of MLAAttention, steps F1 to F4 of gradients/README.md, on sm_90. A block takes BLOCK_Q queries of one head
   and walks the keys that they see in tiles of BLOCK_K, from the last to the first. One warpgroup, the producer, lets TMA
   fill a ring of STAGES tiles of keys and values; each of the others, the CONSUMERS, multiplies 64 of the queries with it.

   A consumer begins the scores of the next tile before it adds this tile's values, and makes weights of those scores while
   the values are added. Two consumers take turns to begin products, so that one is in its softmax while the other
   multiplies. */
#pragma once

#include "../plan.h"
#include "softmax.cuh"
#include "tma.cuh"
#include "wgmma.cuh"

constexpr int WARPGROUP = 128; /* threads */
constexpr int ROWS = 64;       /* queries of a warpgroup */

template <typename T, int HEAD_QK, int HEAD_V, int BLOCK_K, int CONSUMERS, int STAGES>
struct ForwardShared {
  static constexpr int BLOCK_Q = ROWS * CONSUMERS;
  T q[HEAD_QK / PANEL][BLOCK_Q][PANEL];
  T k[STAGES][HEAD_QK / PANEL][BLOCK_K][PANEL];
  T v[STAGES][HEAD_V / PANEL][BLOCK_K][PANEL];
  Barrier q_full, q_empty, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

/* Heads come in sections, a.splits heads each, whose keys and values stay in L2 meanwhile. In a section, the last blocks
   of queries, which see most under a causal mask, come first. */
struct Turn {
  int batch_head, block;

  __device__ Turn(const MlaArguments &a, int index, int blocks) {
    int heads = a.params.batch * a.params.hq, section = index / (a.splits * blocks), rest = index % (a.splits * blocks);
    int section_heads = min(a.splits, heads - section * a.splits);
    batch_head = section * a.splits + rest % section_heads;
    block = blocks - 1 - rest / section_heads;
  }
};

/* A block's share of the work: BLOCK_Q queries of one head, and the tiles of keys that any of them sees. */
template <int BLOCK_Q, int BLOCK_K>
struct QueryBlock {
  int batch, head, kv_head, first_query;
  Visibility visibility;
  int first_tile, tiles;

  __device__ QueryBlock(const MlaArguments &a, int index)
      : QueryBlock(a.params, Turn(a, index, blocks(a.params))) {}
  __device__ QueryBlock(const MlaParams &p, Turn turn)
      : batch(turn.batch_head / p.hq),
        head(turn.batch_head % p.hq),
        kv_head(head / (p.hq / p.hkv)),
        first_query(turn.block * BLOCK_Q),
        visibility(p, batch) {
    Range keys = visibility.keys_of_any(first_query, BLOCK_Q);
    first_tile = keys.lo / BLOCK_K;
    tiles = keys.lo < keys.hi ? (keys.hi + BLOCK_K - 1) / BLOCK_K - first_tile : 0;
  }
  static __device__ int blocks(const MlaParams &p) { return (p.sq + BLOCK_Q - 1) / BLOCK_Q; }
  /* Forth and back over the blocks of threads, so that none has the longest share of every round. */
  static __device__ int index(int round) {
    return round * gridDim.x + (round % 2 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  }
  static __device__ int count(const MlaParams &p) { return p.batch * p.hq * blocks(p); }
  /* The first key of the nth tile on the way. */
  __device__ int key(int n) const { return (first_tile + tiles - 1 - n) * BLOCK_K; }
};

template <typename T, typename Out, int HEAD_QK, int HEAD_V, int BLOCK_K, int CONSUMERS, int STAGES>
struct Forward {
  using Shared = ForwardShared<T, HEAD_QK, HEAD_V, BLOCK_K, CONSUMERS, STAGES>;
  static constexpr int BLOCK_Q = ROWS * CONSUMERS;
  using Block = QueryBlock<BLOCK_Q, BLOCK_K>;
  enum NamedBarrier { CLEARED = 1, TURN = 2 }; /* TURN + w is the turn of consumer w */

  const MlaArguments &a;
  const CUtensorMap &q, &q_rope, &k, &k_rope, &v;
  Shared &shared;

  /* ---- the producer ---- */

  /* Copies a tile of [nope | rope] rows. A tensor whose heads or batch entries are all the same has one of them in its
     map. */
  template <int COUNT>
  __device__ void copy_rows(T (&to)[HEAD_QK / PANEL][COUNT][PANEL], const CUtensorMap &nope, const CUtensorMap &rope,
                            const MlaRows &nope_rows, const MlaRows &rope_rows, int position, int head, int batch,
                            Barrier &full) {
    full.arrive_and_expect(sizeof to);
#pragma unroll
    for (int panel = 0; panel < HEAD_QK / PANEL; panel++) {
      int column = panel * PANEL, nope_columns = (a.params.dn + PANEL - 1) / PANEL * PANEL;
      bool is_nope = column < nope_columns;
      const MlaRows &rows = is_nope ? nope_rows : rope_rows;
      copy_box(to[panel], is_nope ? nope : rope, is_nope ? column : column - nope_columns, position,
               rows.head ? head : 0, rows.batch ? batch : 0, full);
    }
  }
  __device__ void copy_values(T (&to)[HEAD_V / PANEL][BLOCK_K][PANEL], int position, const Block &block, Barrier &full) {
    full.arrive_and_expect(sizeof to);
#pragma unroll
    for (int panel = 0; panel < HEAD_V / PANEL; panel++)
      copy_box(to[panel], v, panel * PANEL, position, a.params.v.head ? block.kv_head : 0,
               a.params.v.batch ? block.batch : 0, full);
  }

  __device__ void produce() {
    const MlaParams &p = a.params;
    Stage<STAGES> k_stage, v_stage;
    int q_parity = 0;
    for (int round = 0, index; (index = Block::index(round)) < Block::count(p); round++) {
      Block block(a, index);
      if (block.tiles == 0) continue;
      shared.q_empty.wait(q_parity ^ 1);
      q_parity ^= 1;
      copy_rows(shared.q, q, q_rope, p.q, p.q_rope, block.first_query, block.head, block.batch, shared.q_full);
      for (int n = 0; n <= block.tiles; n++) {
        if (n < block.tiles) {
          shared.k_empty[k_stage.index].wait(k_stage.parity ^ 1);
          copy_rows(shared.k[k_stage.index], k, k_rope, p.k, p.k_rope, block.key(n), block.kv_head, block.batch,
                    shared.k_full[k_stage.index]);
          k_stage.advance();
        }
        if (n > 0) {
          shared.v_empty[v_stage.index].wait(v_stage.parity ^ 1);
          copy_values(shared.v[v_stage.index], block.key(n - 1), block, shared.v_full[v_stage.index]);
          v_stage.advance();
        }
      }
    }
  }

  /* ---- a consumer ---- */

  using Scores = float[BLOCK_K / 2];
  using Weights = unsigned[BLOCK_K / 16][4];
  using Sums = float[HEAD_V / 2];

  static __device__ void wait_for_turn(int consumer) {
    if (CONSUMERS == 2) named_sync(TURN + consumer, CONSUMERS * WARPGROUP);
  }
  static __device__ void end_turn(int consumer) {
    if (CONSUMERS == 2) named_arrive(TURN + (consumer ^ 1), CONSUMERS * WARPGROUP);
  }
  /* One thread of each warp says that the warp is done with a buffer. */
  static __device__ void leave(Barrier &empty) {
    if (threadIdx.x % 32 == 0) empty.arrive();
  }

  /* Begins scores = Q · K^T. */
  __device__ void begin_scores(Scores &scores, int consumer, int stage) {
    uint64_t left = matrix_by_rows(shared_address(shared.q[0][consumer * ROWS]));
    uint64_t right = matrix_by_rows(shared_address(shared.k[stage]));
    begin_products();
#pragma unroll
    for (int column = 0; column < HEAD_QK; column += 16)
      multiply<false>(scores, further(left, sizeof shared.q[0] * (column / PANEL) + column % PANEL * 2),
                      further(right, sizeof shared.k[0][0] * (column / PANEL) + column % PANEL * 2), column > 0, T());
    commit_products();
  }
  /* Begins sums += weights · V. */
  __device__ void begin_values(Sums &sums, const Weights &weights, int stage) {
    uint64_t right = matrix_by_columns(shared_address(shared.v[stage]), sizeof shared.v[0][0]);
    begin_products();
#pragma unroll
    for (int n = 0; n < BLOCK_K / 16; n++) multiply<true>(sums, weights[n], further(right, n * 16 * PANEL * 2), T());
    commit_products();
  }
  static __device__ void pack_weights(Weights &weights, const Scores &scores) {
#pragma unroll
    for (int i = 0; i < BLOCK_K / 4; i++)
      weights[i / 4][i % 4] = pack(scores[2 * i], scores[2 * i + 1], T());
  }
  static __device__ void scale_sums(Sums &sums, const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < HEAD_V / 2; i++) sums[i] *= factor[i / 2 % 2];
  }

  /* Clears the values past the length, which may be anything: a weight of 0 does not make 0 of them. */
  __device__ void clear_values(int stage, int first_row, int consumer_thread) {
    constexpr int WORDS = PANEL * sizeof(T) / sizeof(uint4);
    for (int panel = 0; panel < HEAD_V / PANEL; panel++)
      for (int i = first_row * WORDS + consumer_thread; i < BLOCK_K * WORDS; i += CONSUMERS * WARPGROUP)
        reinterpret_cast<uint4 *>(shared.v[stage][panel])[i] = uint4{0, 0, 0, 0};
    publish_shared_memory();
    named_sync(CLEARED, CONSUMERS * WARPGROUP);
  }

  /* Writes a row's 8 columns of two neighbouring groups, `low` and `high`, of which this thread has a pair each. */
  __device__ void write_columns(__half *row, int column, float2 low, float2 high) { write_halves(row, column, low, high); }
  __device__ void write_columns(__nv_bfloat16 *row, int column, float2 low, float2 high) {
    write_halves(row, column, low, high);
  }
  __device__ void write_columns(float *row, int column, float2 low, float2 high) {
    int mine = column + threadIdx.x % 4 * 2;
    *reinterpret_cast<float2 *>(row + mine) = low;
    *reinterpret_cast<float2 *>(row + mine + 8) = high;
  }
  /* Even threads trade their pair of `high` for the pair of `low` to their right, so that each writes 8 bytes. */
  __device__ void write_halves(T *row, int column, float2 low, float2 high) {
    unsigned low_pair = pack(low.x, low.y, T()), high_pair = pack(high.x, high.y, T());
    int odd = threadIdx.x % 2;
    unsigned other = __shfl_xor_sync(~0u, odd ? low_pair : high_pair, 1);
    uint2 four = odd ? uint2{other, high_pair} : uint2{low_pair, other};
    if (row) *reinterpret_cast<uint2 *>(row + column + odd * 8 + threadIdx.x % 4 / 2 * 4) = four;
  }

  __device__ void write(const Block &block, int row, const Sums &sums, const OnlineSoftmax &softmax) {
    const MlaParams &p = a.params;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int query = row + 8 * i;
      float sum = softmax.whole_sum(i), factor = sum > 0 ? 1 / sum : 0;
      bool is_there = query < p.sq;
      Out *out = static_cast<Out *>(p.out.start) + block.batch * p.out.batch + query * p.out.position +
                 block.head * p.out.head;
#pragma unroll
      for (int n = 0; n < HEAD_V / 8; n += 2) {
        const float *low = sums + 4 * n + 2 * i, *high = low + 4;
        write_columns(is_there && n * 8 < p.dv ? out : nullptr, n * 8, float2{low[0] * factor, low[1] * factor},
                      float2{high[0] * factor, high[1] * factor});
      }
      if (is_there && threadIdx.x % 4 == 0)
        p.lse[(static_cast<int64_t>(block.batch) * p.hq + block.head) * p.sq + query] = softmax.lse(i, sum);
    }
  }

  __device__ void consume(int consumer) {
    const MlaParams &p = a.params;
    int thread = threadIdx.x % WARPGROUP, consumer_thread = consumer * WARPGROUP + thread;
    Stage<STAGES> k_stage, v_stage;
    int q_parity = 0;
    if (consumer == 1) end_turn(consumer);
    for (int round = 0, index; (index = Block::index(round)) < Block::count(p); round++) {
      Block block(a, index);
      int first_row = block.first_query + consumer * ROWS;
      int row = first_row + thread / 32 * 16 + thread % 32 / 4;
      Range seen[2] = {block.visibility.keys_of(row), block.visibility.keys_of(row + 8)};
      OnlineSoftmax softmax(p.softmax_scale);
      Scores scores;
      Weights weights;
      Sums sums;
      float factor[2];
#pragma unroll
      for (int i = 0; i < HEAD_V / 2; i++) sums[i] = 0;
      if (block.tiles > 0) {
        shared.q_full.wait(q_parity);
        q_parity ^= 1;
        shared.k_full[k_stage.index].wait(k_stage.parity);
        wait_for_turn(consumer);
        begin_scores(scores, consumer, k_stage.index);
        end_turn(consumer);
        wait_for_products<0>(scores);
        leave(shared.k_empty[k_stage.index]);
        k_stage.advance();
        if (!block.visibility.is_whole(first_row, ROWS, block.key(0), BLOCK_K)) hide_unseen(scores, seen, block.key(0));
        softmax.weigh(scores, factor);
        pack_weights(weights, scores);
        int kv_length = block.visibility.kv_length;
        if (kv_length < p.skv && block.key(0) + BLOCK_K > kv_length) {
          shared.v_full[v_stage.index].wait(v_stage.parity);
          clear_values(v_stage.index, kv_length - block.key(0), consumer_thread);
        }
        for (int n = 1; n < block.tiles; n++) {
          shared.k_full[k_stage.index].wait(k_stage.parity);
          wait_for_turn(consumer);
          begin_scores(scores, consumer, k_stage.index);
          shared.v_full[v_stage.index].wait(v_stage.parity);
          begin_values(sums, weights, v_stage.index);
          end_turn(consumer);
          wait_for_products<1>(scores);
          leave(shared.k_empty[k_stage.index]);
          k_stage.advance();
          if (!block.visibility.is_whole(first_row, ROWS, block.key(n), BLOCK_K))
            hide_unseen(scores, seen, block.key(n));
          softmax.weigh(scores, factor);
          wait_for_products<0>(sums);
          leave(shared.v_empty[v_stage.index]);
          v_stage.advance();
          scale_sums(sums, factor);
          pack_weights(weights, scores);
        }
        leave(shared.q_empty);
        shared.v_full[v_stage.index].wait(v_stage.parity);
        begin_values(sums, weights, v_stage.index);
        wait_for_products<0>(sums);
        leave(shared.v_empty[v_stage.index]);
        v_stage.advance();
      }
      write(block, row, sums, softmax);
    }
    if (consumer == 0) wait_for_turn(consumer);
  }

  __device__ void run() {
    if (threadIdx.x == 0) {
      constexpr int CONSUMER_WARPS = CONSUMERS * WARPGROUP / 32;
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
    __syncthreads();
    int warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
      give_registers<CONSUMERS == 2 ? 24 : 40>();
      if (threadIdx.x == 0) produce();
    } else {
      take_registers<CONSUMERS == 2 ? 240 : 216>();
      consume(warpgroup - 1);
    }
  }
};
