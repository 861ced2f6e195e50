/* MLADecode, steps F1 to F4 of gradients/README.md, on sm_90: queries of 64 heads at one position against a part of the
   cache, which is key and value in one. The heads are the rows of the products, so that a tile of the cache is read once
   for all of them.

   Of a tile of BLOCK_K keys, each of two consumers makes the scores of one half of the keys, and adds the values of all
   keys in one half of the columns; largest scores and weights go from one to the other through shared memory. A producer
   lets TMA fetch the next tile meanwhile.
   grid: (64 heads of a position, splits, batch). With splits the normalised sums go to partial_out
   [batch][splits][sq * hq][dv], in the tensors' type, and their lse to partial_lse [batch][splits][sq * hq], for
   sm80/mla_merge. */
#include "../plan.h"
#include "softmax.cuh"
#include "tile.cuh"

template <typename T>
struct Decode {
  static constexpr int DN = 512, DR = 64, HEADS = WARPGROUP_ROWS, BLOCK_K = 64, STAGES = 2, CONSUMERS = 2;
  static constexpr int CONSUMER_THREADS = WARPGROUP * CONSUMERS;
  static constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
  static constexpr int KEYS = BLOCK_K / CONSUMERS, COLUMNS = DN / CONSUMERS; /* of a consumer */
  enum NamedBarrier { CLEARED = 1, LARGEST_WRITTEN, WEIGHTS_WRITTEN, SUMS_WRITTEN };

  struct Shared {
    Tile<T, HEADS, DN + DR> q;
    Tile<T, BLOCK_K, DN + DR> keys[STAGES];
    Tile<T, HEADS, BLOCK_K> weights;
    float of_rows[CONSUMERS][HEADS]; /* the largest scores of a tile; at the end the sums of weights */
    Barrier q_full, full[STAGES], empty[STAGES];
  };

  /* What the block walks: the tiles of this split, of those that its position sees. */
  struct Walk {
    int batch, first_head, position;
    Visibility visibility;
    Range seen;
    int first_tile, tiles;

    __device__ explicit Walk(const MlaArguments &a)
        : batch(blockIdx.z),
          first_head(blockIdx.x * HEADS % a.params.hq),
          position(blockIdx.x * HEADS / a.params.hq),
          visibility(a.params, batch),
          seen(visibility.keys_of(position)) {
      bool is_any = seen.lo < seen.hi;
      int first = seen.lo / BLOCK_K, all = is_any ? (seen.hi + BLOCK_K - 1) / BLOCK_K - first : 0;
      int each = (all + a.splits - 1) / a.splits;
      first_tile = first + min(all, each * static_cast<int>(blockIdx.y));
      tiles = min(first + all - first_tile, each);
    }
    __device__ int key(int n) const { return (first_tile + n) * BLOCK_K; }
  };

  const MlaArguments &a;
  RowsMap q, q_rope, k, k_rope; /* heads are the rows of q's boxes */
  Shared &shared;

  __device__ void init_barriers() {
    shared.q_full.init(1);
    for (int stage = 0; stage < STAGES; stage++) {
      shared.full[stage].init(1);
      shared.empty[stage].init(CONSUMER_THREADS / 32);
    }
    publish_barriers();
  }

  __device__ void produce(const Walk &walk) {
    Stage<STAGES> stage;
    if (walk.tiles > 0) {
      shared.q_full.arrive_and_expect(sizeof shared.q);
      copy_tile(shared.q, q, q_rope, DN, walk.first_head, walk.position, walk.batch, shared.q_full);
    }
    for (int n = 0; n < walk.tiles; n++) {
      Barrier &full = shared.full[stage.index];
      shared.empty[stage.index].wait(stage.parity ^ 1);
      full.arrive_and_expect(sizeof shared.keys[0]);
      copy_tile(shared.keys[stage.index], k, k_rope, DN, walk.key(n), 0, walk.batch, full);
      stage.advance();
    }
  }

  /* Clears the keys past the length in a tile, of which sums would take 0 times whatever is there. */
  __device__ void clear_past_length(Tile<T, BLOCK_K, DN + DR> &keys, int row) {
    keys.clear_from(row, threadIdx.x - WARPGROUP, CONSUMER_THREADS);
    publish_shared_memory();
    named_sync(CLEARED, CONSUMER_THREADS);
  }

  /* Begins scores = Q · (this consumer's keys)^T. */
  __device__ void begin_scores(float (&scores)[KEYS / 2], const Tile<T, BLOCK_K, DN + DR> &keys, int consumer) {
    uint64_t left = shared.q.by_rows(0), right = keys.by_rows(consumer * KEYS);
    begin_products();
#pragma unroll
    for (int column = 0; column < DN + DR; column += 16)
      multiply<false>(scores, shared.q.at_column(left, column), keys.at_column(right, column), column > 0, T());
    commit_products();
  }
  /* Begins sums += weights · (this consumer's columns of the keys). */
  __device__ void begin_values(float (&sums)[COLUMNS / 2], const Tile<T, BLOCK_K, DN + DR> &keys, int consumer) {
    uint64_t left = shared.weights.by_rows(0);
    uint64_t right = further(keys.by_columns(), consumer * (COLUMNS / PANEL) * sizeof keys.panels[0]);
    begin_products();
#pragma unroll
    for (int key = 0; key < BLOCK_K; key += 16)
      multiply<true>(sums, shared.weights.at_column(left, key), keys.at_row(right, key), true, T());
    commit_products();
  }

  /* The larger of both consumers' largest scores. */
  __device__ void exchange_largest(float (&largest)[2], int consumer) {
    for (int i = 0; i < 2; i++) {
      largest[i] = row_max(largest[i]);
      if (threadIdx.x % 4 == 0) shared.of_rows[consumer][row_of_thread() + 8 * i] = largest[i];
    }
    named_sync(LARGEST_WRITTEN, CONSUMER_THREADS);
    for (int i = 0; i < 2; i++) largest[i] = fmaxf(largest[i], shared.of_rows[consumer ^ 1][row_of_thread() + 8 * i]);
  }
  /* Chunks of 16 bytes change places with the row's number, as TMA would write them. */
  __device__ void write_weights(const float (&scores)[KEYS / 2], int consumer) {
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        int row = row_of_thread() + 8 * i, chunk = (consumer * (KEYS / 8) + n) ^ (row % 8);
        *reinterpret_cast<unsigned *>(&shared.weights.panels[0][row][chunk * 8 + threadIdx.x % 4 * 2]) =
            pack(scores[4 * n + 2 * i], scores[4 * n + 2 * i + 1], T());
      }
    publish_shared_memory();
    named_sync(WEIGHTS_WRITTEN, CONSUMER_THREADS);
  }

  __device__ void write(const Walk &walk, int consumer, const float (&sums)[COLUMNS / 2], const OnlineSoftmax &softmax) {
    const MlaParams &p = a.params;
    for (int i = 0; i < 2; i++) {
      float own = softmax.whole_sum(i);
      if (threadIdx.x % 4 == 0) shared.of_rows[consumer][row_of_thread() + 8 * i] = own;
    }
    named_sync(SUMS_WRITTEN, CONSUMER_THREADS);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int row = row_of_thread() + 8 * i, head = walk.first_head + row;
      float sum = shared.of_rows[0][row] + shared.of_rows[1][row], lse = softmax.lse(i, sum);
      T *out = row_of<T>(p.out, walk.batch, walk.position, head);
      float *lse_place = p.lse + (static_cast<int64_t>(walk.batch) * p.hq + head) * p.sq + walk.position;
      if (a.splits > 1) {
        int64_t place = (static_cast<int64_t>(walk.batch) * a.splits + blockIdx.y) * p.sq * p.hq + blockIdx.x * HEADS + row;
        out = static_cast<T *>(a.partial_out) + place * DN;
        lse_place = a.partial_lse + place;
      }
      write_row(out + consumer * COLUMNS, sums, i, COLUMNS, sum > 0 ? 1 / sum : 0, sum > 0);
      if (consumer == 0 && threadIdx.x % 4 == 0) *lse_place = lse;
    }
  }

  __device__ void consume(const Walk &walk, int consumer) {
    const MlaParams &p = a.params;
    Range seen[2] = {walk.seen, walk.seen};
    OnlineSoftmax softmax(p.softmax_scale);
    Stage<STAGES> stage;
    float scores[KEYS / 2], sums[COLUMNS / 2], factor[2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) sums[i] = 0;
    if (walk.tiles > 0) shared.q_full.wait(0);
    for (int n = 0; n < walk.tiles; n++) {
      Tile<T, BLOCK_K, DN + DR> &keys = shared.keys[stage.index];
      int key = walk.key(n), past_length = walk.visibility.kv_length - key;
      shared.full[stage.index].wait(stage.parity);
      if (past_length < BLOCK_K) clear_past_length(keys, past_length);
      begin_scores(scores, keys, consumer);
      wait_for_products<0>(scores);
      if (key < walk.seen.lo || key + BLOCK_K > walk.seen.hi) hide_unseen(scores, seen, key + consumer * KEYS);
      float largest[2];
      softmax.find_largest(scores, largest);
      exchange_largest(largest, consumer);
      softmax.weigh(scores, largest, factor);
#pragma unroll
      for (int i = 0; i < COLUMNS / 2; i++) sums[i] *= factor[i / 2 % 2];
      write_weights(scores, consumer);
      begin_values(sums, keys, consumer);
      wait_for_products<0>(sums);
      leave(shared.empty[stage.index]);
      stage.advance();
    }
    write(walk, consumer, sums, softmax);
  }

  __device__ void run() {
    if (threadIdx.x == 0) init_barriers();
    __syncthreads();
    Walk walk(a);
    int warpgroup = __shfl_sync(~0u, threadIdx.x / WARPGROUP, 0);
    if (warpgroup == 0) {
      give_registers<24>();
      if (threadIdx.x == 0) produce(walk);
    } else {
      take_registers<240>();
      consume(walk, warpgroup - 1);
    }
  }
};

extern __shared__ __align__(1024) unsigned char shared_memory[];

#define MLA_DECODE_KERNEL(NAME, T)                                                                                     \
  extern "C" __global__ void __launch_bounds__(Decode<T>::THREADS, 1)                                                  \
      NAME(const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                \
           const __grid_constant__ TensorMap q_rope, const __grid_constant__ TensorMap k,                              \
           const __grid_constant__ TensorMap k_rope) {                                                                 \
    const MlaParams &p = a.params;                                                                                     \
    Decode<T>{a, {q, p.q}, {q_rope, p.q_rope}, {k, p.k}, {k_rope, p.k_rope},                                           \
              *reinterpret_cast<Decode<T>::Shared *>(shared_memory)}.run();                                            \
  }
MLA_DECODE_KERNEL(mla_decode_f16, __half)
MLA_DECODE_KERNEL(mla_decode_bf16, __nv_bfloat16)
