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

/* a / b, for 0 <= a < 2^21 and b > 0. The first fetch waits for it, and an integer division takes longer. */
__device__ inline int quotient(int a, int b) { return static_cast<int>(__fdividef(a + 0.5f, b)); }

/* Writes four matrices of eight rows of 16 bytes, as products leave their sums: lane i names row i % 8 of matrix i / 8. */
__device__ inline void store_matrices(void *row, const unsigned (&matrices)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
               "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
               : "memory");
}

/* A lane's pointer. */
template <typename P>
__device__ inline P *of_lane(P *pointer, int lane) {
  return reinterpret_cast<P *>(__shfl_sync(~0u, reinterpret_cast<uintptr_t>(pointer), lane));
}

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
      int blocks_of_heads = (hq + ROWS - 1) / ROWS, most_positions = hq < ROWS ? quotient(ROWS, hq) : 1;
      int block_of_positions = quotient(blockIdx.x, blocks_of_heads);
      first_head = (blockIdx.x - block_of_positions * blocks_of_heads) * ROWS;
      first_position = block_of_positions * most_positions;
      positions = min(most_positions, a.params.sq - first_position);
      rows = min(ROWS, positions * hq - first_head);
      Range seen = visibility.keys_of_any(first_position, positions);
      int first = seen.lo / BLOCK_K, all = seen.lo < seen.hi ? (seen.hi + BLOCK_K - 1) / BLOCK_K - first : 0;
      int each = quotient(all + a.splits - 1, a.splits);
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
    int box_rows = p.hq < ROWS ? quotient(ROWS, p.hq) * p.hq : ROWS;
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

  /* Begins scores += Q · K^T, or = from panel 0 on, in the panels [FROM, TO) of the consumer's nth tile as they come. The
     first time the query's panels come too. */
  template <int FROM, int TO, bool IS_FIRST = false>
  __device__ void begin_scores(float (&scores)[BLOCK_K / 2], int n, int consumer) {
    begin_products();
#pragma unroll
    for (int i = FROM; i < TO; i++) {
      int panel = panel_in_order(i, consumer);
      if (IS_FIRST) shared.q_full[panel].wait(0);
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

  /* A warp's results go through shared memory, so that it writes neighbouring columns of one row at a time. */
  __device__ void write(const Walk &walk, int consumer, const float (&sums)[COLUMNS / 2], const OnlineSoftmax &softmax) {
    constexpr int WARP_ROWS = 16, STRIDE = COLUMNS + 8; /* rows in different banks */
    static_assert(CONSUMERS * ROWS * STRIDE * sizeof(T) <= sizeof shared.q, "results take the place of the queries");
    const MlaParams &p = a.params;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float own = softmax.whole_sum(i);
      if (threadIdx.x % 4 == 0) shared.sums[consumer][row_of_thread() + 8 * i] = own;
    }
    shared.sums_written.arrive();
    shared.sums_written.wait(0); /* nobody reads the queries any more */
    int lane = threadIdx.x % 32, first = threadIdx.x % WARPGROUP / 32 * WARP_ROWS, row = first + lane % WARP_ROWS;
    if (first >= walk.rows) return;

    float sum[2], factor[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      sum[i] = shared.sums[0][row_of_thread() + 8 * i] + shared.sums[1][row_of_thread() + 8 * i];
      factor[i] = __fdividef(1, sum[i]);
    }
    auto pair = [&](int group, int i) {
      const float *two = sums + 4 * group + 2 * i;
      return sum[i] > 0 ? pack(two[0] * factor[i], two[1] * factor[i], T()) : 0;
    };
    T *results = shared.q.panels[0][0] + (consumer * ROWS + first) * STRIDE;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n += 2)
      store_matrices(results + lane % 16 * STRIDE + n * 8 + lane / 16 * 8,
                     {pair(n, 0), pair(n, 1), pair(n + 1, 0), pair(n + 1, 1)});

    T *out = nullptr; /* of the lane's row, likewise lse */
    float *lse = nullptr;
    if (row < walk.rows && a.splits > 1) {
      int64_t split = static_cast<int64_t>(walk.batch) * a.splits + blockIdx.y;
      int64_t place = split * p.sq * p.hq + walk.first_position * p.hq + walk.first_head + row;
      out = static_cast<T *>(a.partial_out) + place * DN + consumer * COLUMNS;
      lse = a.partial_lse + place;
    } else if (row < walk.rows) {
      int head = walk.head(row), position = walk.position(row);
      out = row_of<T>(p.out, walk.batch, position, head) + consumer * COLUMNS;
      lse = p.lse + (static_cast<int64_t>(walk.batch) * p.hq + head) * p.sq + position;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < WARP_ROWS; i++) {
      T *to = of_lane(out, i);
      uint4 columns = reinterpret_cast<const uint4 *>(results + i * STRIDE)[lane];
      if (to) reinterpret_cast<uint4 *>(to)[lane] = columns;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float *to = of_lane(lse, lane / 4 + 8 * i);
      if (to && consumer == 0 && lane % 4 == 0) *to = softmax.lse(i, sum[i]);
    }
  }

  __device__ void consume(const Walk &walk, int consumer) {
    OnlineSoftmax softmax(a.params.softmax_scale);
    float scores[BLOCK_K / 2], sums[COLUMNS / 2];
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++) sums[i] = 0;
    if (consumer == 0 && walk.tiles > 0) {
      begin_scores<0, PANELS, true>(scores, 0, consumer);
      wait_for_products<0>(scores);
      weigh_and_add(scores, sums, softmax, walk, 0, consumer);
    }
    /* its other tiles, before each of them one of the other consumer's */
    int n = CONSUMERS - consumer;
    if (n < walk.tiles)
      for (Barrier &full : shared.q_full) full.wait(0);
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
