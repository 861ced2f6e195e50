/* MLADecode, steps F1 to F4 of gradients/README.md, on sm_90: 64 rows of queries against a part of the cache, which is key
   and value in one. The rows are heads of one position, or all heads of some positions, so that a tile of the cache is read
   once for all of them.

   Of the tiles, one of two consumers owns the even ones, the other the odd ones. The owner makes a tile's scores and
   weights. Both add its values, each in one half of the columns: the owner with the weights in its registers, the other with
   those that the owner leaves in place of the tile's rope part. So one finds weights while the other multiplies. A producer
   lets TMA fill what is free of a tile, panel by panel.
   grid: (blocks of rows, splits, batch). With splits the normalised sums go to partial_out [batch][splits][sq * hq][dv], in
   the tensors' type, and their lse to partial_lse [batch][splits][sq * hq], for mla_merge. */
#include "../plan.h"
#include "softmax.cuh"
#include "tile.cuh"

template <typename T>
struct Decode {
  static constexpr int DN = 512, DR = 64, ROWS = WARPGROUP_ROWS, BLOCK_K = 64, CONSUMERS = 2;
  static constexpr int CONSUMER_THREADS = WARPGROUP * CONSUMERS;
  static constexpr int THREADS = WARPGROUP + CONSUMER_THREADS;
  static constexpr int COLUMNS = DN / CONSUMERS;                         /* of a consumer */
  static constexpr int HALF = COLUMNS / PANEL, ROPE = DN / PANEL, PANELS = ROPE + 1; /* the last panel is the rope part */
  static constexpr float SLACK = 8; /* weights may be up to 2^SLACK, so that sums are seldom multiplied */
  enum NamedBarrier { SCORES_MADE = 1 };

  using Panels = Tile<T, BLOCK_K, DN + DR>;
  static_assert(DR == PANEL && ROWS == BLOCK_K, "the weights of a tile take the place of its rope part");

  struct Shared {
    Panels q, keys[CONSUMERS];         /* the tile that a consumer owns */
    float references[CONSUMERS][ROWS]; /* the scores that its weights refer to */
    float sums[CONSUMERS][ROWS];       /* of the weights that a consumer has made */
    Barrier q_full[PANELS], full[CONSUMERS][PANELS], half_empty[CONSUMERS][CONSUMERS];
    Barrier weights_written[CONSUMERS], sums_written; /* no named ones: compute-sanitizer would not follow them */
  };

  /* Rows that are neighbours when packed as position * hq + head, and the tiles of this split, of those that any of them
     sees. */
  struct Walk {
    int batch, hq, first_position, positions, first_head, rows;
    Visibility visibility;
    int first_tile, tiles;

    __device__ explicit Walk(const MlaArguments &a) : batch(blockIdx.z), hq(a.params.hq), visibility(a.params, batch) {
      int blocks_of_heads = (hq + ROWS - 1) / ROWS, most_positions = max(ROWS / hq, 1);
      first_head = blockIdx.x % blocks_of_heads * ROWS;
      first_position = blockIdx.x / blocks_of_heads * most_positions;
      positions = min(most_positions, a.params.sq - first_position);
      rows = min(ROWS, positions * hq - first_head);
      Range seen = visibility.keys_of_any(first_position, positions);
      int first = seen.lo / BLOCK_K, all = seen.lo < seen.hi ? (seen.hi + BLOCK_K - 1) / BLOCK_K - first : 0;
      int each = (all + a.splits - 1) / a.splits;
      first_tile = first + min(all, each * static_cast<int>(blockIdx.y));
      tiles = min(first + all - first_tile, each);
    }
    __device__ int key(int n) const { return (first_tile + n) * BLOCK_K; }
    __device__ int position(int row) const { return first_position + (first_head + row) / hq; }
    __device__ int head(int row) const { return (first_head + row) % hq; }
    __device__ Range seen_by(int row) const { return visibility.keys_of(position(row)); }
  };

  const MlaArguments &a;
  RowsMap q, q_rope, k, k_rope; /* heads and positions are the rows of q's boxes */
  Shared &shared;

  __device__ void init_barriers() {
    for (Barrier &full : shared.q_full) full.init(1);
    for (int owner = 0; owner < CONSUMERS; owner++) {
      for (Barrier &full : shared.full[owner]) full.init(1);
      for (Barrier &half : shared.half_empty[owner]) half.init(WARPGROUP / 32);
      shared.weights_written[owner].init(WARPGROUP);
    }
    shared.sums_written.init(CONSUMER_THREADS);
    publish_barriers();
  }

  /* A tile's panels in the order in which they become free, the owner's half first. */
  static __device__ int panel_in_order(int i, int owner) { return i == ROPE ? ROPE : (i + owner * HALF) % ROPE; }

  __device__ void produce(const Walk &walk) {
    const MlaParams &p = a.params;
    int box_rows = p.hq < ROWS ? ROWS / p.hq * p.hq : ROWS;
    for (int n = 0; n < walk.tiles; n++) {
      int owner = n % CONSUMERS, round = n / CONSUMERS;
#pragma unroll
      for (int i = 0; i < PANELS; i++) {
        int panel = panel_in_order(i, owner), column = panel % ROPE * PANEL;
        Panels &keys = shared.keys[owner];
        Barrier &full = shared.full[owner][panel];
        if (i < ROPE && i % HALF == 0) shared.half_empty[owner][panel / HALF].wait(round % 2 ^ 1);
        if (n == 0) {
          shared.q_full[panel].arrive_and_expect(box_rows * sizeof shared.q.panels[0][0]);
          copy_box(shared.q.panels[panel], i < ROPE ? q.map : q_rope.map, column, walk.first_head, walk.first_position,
                   (i < ROPE ? p.q : p.q_rope).batch ? walk.batch : 0, shared.q_full[panel]);
        }
        full.arrive_and_expect(sizeof keys.panels[0]);
        copy_box(keys.panels[panel], i < ROPE ? k.map : k_rope.map, column, walk.key(n), 0,
                 (i < ROPE ? p.k : p.k_rope).batch ? walk.batch : 0, full);
      }
    }
  }

  /* Begins scores += Q · K^T, or = from panel 0 on, in the panels [FROM, TO) of the consumer's nth tile as they come. */
  template <int FROM, int TO>
  __device__ void begin_scores(float (&scores)[BLOCK_K / 2], int n, int consumer) {
    begin_products();
#pragma unroll
    for (int i = FROM; i < TO; i++) {
      int panel = panel_in_order(i, consumer);
      shared.q_full[panel].wait(0);
      shared.full[consumer][panel].wait(n / CONSUMERS % 2);
      uint64_t left = matrix_by_rows(shared_address(shared.q.panels[panel]));
      uint64_t right = matrix_by_rows(shared_address(shared.keys[consumer].panels[panel]));
#pragma unroll
      for (int column = 0; column < PANEL; column += 16)
        multiply<false>(scores, further(left, column * sizeof(T)), further(right, column * sizeof(T)), i + column > 0, T());
    }
    commit_products();
  }

  static __device__ void scale(float (&sums)[COLUMNS / 2], const float (&factor)[2]) {
    if (!__any_sync(~0u, factor[0] != 1 || factor[1] != 1)) return;
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) sums[i] *= factor[i / 2 % 2];
  }
  /* Where products find the consumer's columns of a tile. */
  __device__ uint64_t values(int owner, int consumer) const {
    return further(shared.keys[owner].by_columns(), consumer * HALF * sizeof shared.q.panels[0]);
  }
  /* Makes weights of the consumer's nth tile, leaves them to the other consumer, and adds its values. */
  __device__ void weigh_and_add(float (&scores)[BLOCK_K / 2], float (&sums)[COLUMNS / 2], OnlineSoftmax &softmax,
                                const Walk &walk, int n, int consumer) {
    unsigned weights[BLOCK_K / 16][4];
    float factor[2];
    Panels &keys = shared.keys[consumer];
    int row = row_of_thread(), key = walk.key(n), past_length = walk.visibility.kv_length - key;
    if (!walk.visibility.is_whole(walk.first_position, walk.positions, key, BLOCK_K)) {
      Range seen[2] = {walk.seen_by(row), walk.seen_by(row + 8)};
      hide_unseen(scores, seen, key);
    }
    float largest[2], slack = SLACK / softmax.scale;
    softmax.find_largest(scores, largest);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      largest[i] = row_max(largest[i]);
      if (!(largest[i] - softmax.largest[i] > slack)) largest[i] = softmax.largest[i];
    }
    softmax.weigh(scores, largest, factor);
    pack_left(weights, scores, T());
    named_sync(SCORES_MADE + consumer, WARPGROUP); /* nobody reads the rope part any more */
    if (past_length < BLOCK_K) {
      keys.clear_from(past_length, threadIdx.x % WARPGROUP, WARPGROUP);
      named_sync(SCORES_MADE + consumer, WARPGROUP);
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      /* chunks of 16 bytes change places with the row's number, as TMA would write them */
#pragma unroll
      for (int chunk = 0; chunk < BLOCK_K / 8; chunk++)
        *reinterpret_cast<unsigned *>(&keys.panels[ROPE][row + 8 * i][(chunk ^ row % 8) * 8 + threadIdx.x % 4 * 2]) =
            weights[chunk / 2][chunk % 2 * 2 + i];
      if (threadIdx.x % 4 == 0) shared.references[consumer][row + 8 * i] = largest[i];
    }
    publish_shared_memory();
    shared.weights_written[consumer].arrive();

    scale(sums, factor);
    uint64_t right = values(consumer, consumer);
    begin_products();
#pragma unroll
    for (int i = 0; i < BLOCK_K / 16; i++) multiply<true>(sums, weights[i], Panels::at_row(right, i * 16), T());
    commit_products();
    wait_for_products<0>(sums);
    leave(shared.half_empty[consumer][consumer]);
  }

  /* Begins to add the values of the nth tile, the other's, once there are its weights. */
  __device__ void begin_others(float (&sums)[COLUMNS / 2], OnlineSoftmax &softmax, int n, int consumer) {
    int other = consumer ^ 1, row = row_of_thread();
    shared.weights_written[other].wait(n / CONSUMERS % 2);
    float references[2] = {shared.references[other][row], shared.references[other][row + 8]}, factor[2];
    softmax.refer_to(references, factor);
    scale(sums, factor);
    uint64_t left = matrix_by_rows(shared_address(shared.keys[other].panels[ROPE])), right = values(other, consumer);
    begin_products();
#pragma unroll
    for (int i = 0; i < BLOCK_K; i += 16)
      multiply<true>(sums, further(left, i * sizeof(T)), Panels::at_row(right, i), true, T());
    commit_products();
  }

  __device__ void write(const Walk &walk, int consumer, const float (&sums)[COLUMNS / 2], const OnlineSoftmax &softmax) {
    const MlaParams &p = a.params;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float own = softmax.whole_sum(i);
      if (threadIdx.x % 4 == 0) shared.sums[consumer][row_of_thread() + 8 * i] = own;
    }
    shared.sums_written.arrive();
    shared.sums_written.wait(0);
#pragma unroll
    for (int i = 0; i < 2; i++) {
      int row = row_of_thread() + 8 * i, head = walk.head(row), position = walk.position(row);
      bool is_there = row < walk.rows;
      float sum = shared.sums[0][row] + shared.sums[1][row];
      T *out = row_of<T>(p.out, walk.batch, position, head);
      float *lse = p.lse + (static_cast<int64_t>(walk.batch) * p.hq + head) * p.sq + position;
      if (a.splits > 1) {
        int64_t place = ((static_cast<int64_t>(walk.batch) * a.splits + blockIdx.y) * p.sq + position) * p.hq + head;
        out = static_cast<T *>(a.partial_out) + place * DN;
        lse = a.partial_lse + place;
      }
      write_row(is_there ? out + consumer * COLUMNS : nullptr, sums, i, COLUMNS, sum > 0 ? 1 / sum : 0, sum > 0);
      if (is_there && consumer == 0 && threadIdx.x % 4 == 0) *lse = softmax.lse(i, sum);
    }
  }

  __device__ void consume(const Walk &walk, int consumer) {
    OnlineSoftmax softmax(a.params.softmax_scale);
    float scores[BLOCK_K / 2], sums[COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) sums[i] = 0;
    if (consumer == 0 && walk.tiles > 0) {
      begin_scores<0, PANELS>(scores, 0, consumer);
      wait_for_products<0>(scores);
      weigh_and_add(scores, sums, softmax, walk, 0, consumer);
    }
    /* its other tiles, before each of them one of the other consumer's */
    int n = CONSUMERS - consumer;
    for (; n < walk.tiles; n += CONSUMERS) {
      begin_scores<0, HALF>(scores, n, consumer);
      begin_others(sums, softmax, n - 1, consumer);
      begin_scores<HALF, PANELS>(scores, n, consumer);
      wait_for_products<1>(sums);
      leave(shared.half_empty[consumer ^ 1][consumer]);
      wait_for_products<0>(scores);
      weigh_and_add(scores, sums, softmax, walk, n, consumer);
    }
    if (n - 1 < walk.tiles) {
      begin_others(sums, softmax, n - 1, consumer);
      wait_for_products<0>(sums);
    }
    start_dependents();
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
