/* The product that everything is made of, on float32 multiply-adds: sums[i][j] += Σ_k left[k][i] · right[k][j], where
   both sides lie in shared memory with the depth k outermost. A thread has a block of the sums in registers. */
#ifndef MLA_GENERAL_PRODUCTS_CUH
#define MLA_GENERAL_PRODUCTS_CUH

#include "operands.cuh"

/* Which COUNT of COUNT · LANES numbers side by side one of LANES threads has: fours, the last two by themselves. */
template <int COUNT_, int LANES_>
struct Spread {
  static constexpr int COUNT = COUNT_, LANES = LANES_, SIZE = COUNT * LANES, IN_FOURS = COUNT / 4 * 4;
  static_assert(COUNT % 2 == 0, "fours and twos");

  static __device__ __forceinline__ int index(int lane, int n) {
    return n < IN_FOURS ? n / 4 * 4 * LANES + lane * 4 + n % 4 : IN_FOURS * LANES + lane * 2 + n % 4;
  }
  /* `swizzle` is a multiple of 4 below 32: where LANES is 8 or more it mixes the fours within 32 numbers. */
  static __device__ __forceinline__ void read(float (&to)[COUNT], const float *from, int lane, int swizzle = 0) {
#pragma unroll
    for (int n = 0; n < IN_FOURS; n += 4) {
      float4 x = *(const float4 *)(from + n * LANES + (lane * 4 ^ swizzle));
      to[n] = x.x, to[n + 1] = x.y, to[n + 2] = x.z, to[n + 3] = x.w;
    }
    if constexpr (COUNT > IN_FOURS) {
      float2 x = *(const float2 *)(from + IN_FOURS * LANES + (lane * 2 ^ swizzle));
      to[IN_FOURS] = x.x, to[IN_FOURS + 1] = x.y;
    }
  }
  static __device__ __forceinline__ void write(float *to, const float (&from)[COUNT], int lane, int swizzle) {
#pragma unroll
    for (int n = 0; n < IN_FOURS; n += 4)
      *(float4 *)(to + n * LANES + (lane * 4 ^ swizzle)) = {from[n], from[n + 1], from[n + 2], from[n + 3]};
    if constexpr (COUNT > IN_FOURS)
      *(float2 *)(to + IN_FOURS * LANES + (lane * 2 ^ swizzle)) = {from[IN_FOURS], from[IN_FOURS + 1]};
  }
};

/* A block's threads over ROWS rows that it owns: LANES threads of a warp share the same rows. */
template <int ROWS_, int LANES_>
struct Tile {
  static constexpr int ROWS = ROWS_, LANES = LANES_, ROW_LANES = THREADS / LANES;
  static_assert(32 % LANES == 0, "within a warp");
  using Rows = Spread<ROWS / ROW_LANES, ROW_LANES>;
  using Walked = Spread<WALK / LANES, LANES>;

  static __device__ __forceinline__ int lane() { return threadIdx.x % LANES; }
  static __device__ __forceinline__ int row_lane() { return threadIdx.x / LANES; }
  static __device__ __forceinline__ int row(int i) { return Rows::index(row_lane(), i); }
  static __device__ __forceinline__ int walked(int j) { return Walked::index(lane(), j); }
};

/* A thread's part of COLUMNS columns of a result. */
template <class T, int COLUMNS_>
struct Columns : Spread<COLUMNS_ / T::LANES, T::LANES> {
  static constexpr int COLUMNS = COLUMNS_, SLICE = MLA_GENERAL_SLICE(COLUMNS);
};

template <int M, int N>
static __device__ __forceinline__ void clear(float (&sums)[M][N]) {
#pragma unroll
  for (int i = 0; i < M; i++)
#pragma unroll
    for (int j = 0; j < N; j++) sums[i][j] = 0;
}

/* The weights of a tile in shared memory, [WALK][ROWS]; fours are mixed so that threads side by side, which have
   walked rows four apart, write to different banks. */
template <class T>
struct Weights {
  float *memory;

  /* Of the walked row `four` · 4 + rest. */
  __device__ __forceinline__ void read(float (&to)[T::Rows::COUNT], int four, int rest) const {
    T::Rows::read(to, memory + four * 4 * T::ROWS + rest * T::ROWS, T::row_lane(), four % 8 * 4);
  }
  __device__ __forceinline__ void write(const float (&from)[T::Rows::COUNT], int four, int rest) const {
    T::Rows::write(memory + four * 4 * T::ROWS + rest * T::ROWS, from, T::row_lane(), four % 8 * 4);
  }
};

/* sums += left · right, a step of depth at a time while the numbers of the next one are read: of step `step` after the
   `first`, where `step` is known to the compiler. */
template <int DEPTH, int M, int N, class ReadLeft, class ReadRight>
static __device__ __forceinline__ void multiply(float (&sums)[M][N], ReadLeft read_left, ReadRight read_right) {
  constexpr int STEPS = 8;
  float x[2][M], y[2][N];
  read_left(x[0], 0, 0);
  read_right(y[0], 0, 0);
#pragma unroll 1
  for (int first = 0; first < DEPTH; first += STEPS) {
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      if (step + 1 < STEPS || first + STEPS < DEPTH) {
        read_left(x[(step + 1) % 2], first, step + 1);
        read_right(y[(step + 1) % 2], first, step + 1);
      }
#pragma unroll
      for (int i = 0; i < M; i++)
#pragma unroll
        for (int j = 0; j < N; j++) sums[i][j] += x[step % 2][i] * y[step % 2][j];
    }
  }
}

/* Rows with walked rows: over a staged chunk of columns of both. */
template <class T>
static __device__ __forceinline__ void multiply_rows(float (&sums)[T::Rows::COUNT][T::Walked::COUNT],
                                                     const float *stage) {
  constexpr int LEFT_STRIDE = MLA_GENERAL_CHUNK_STRIDE(T::ROWS), RIGHT_STRIDE = MLA_GENERAL_CHUNK_STRIDE(WALK);
  const float *right = stage + MLA_GENERAL_CHUNK_FLOATS(T::ROWS);
  multiply<CHUNK>(
      sums,
      [&](float(&x)[T::Rows::COUNT], int first, int step) {
        T::Rows::read(x, stage + first * LEFT_STRIDE + step * LEFT_STRIDE, T::row_lane());
      },
      [&](float(&y)[T::Walked::COUNT], int first, int step) {
        T::Walked::read(y, right + first * RIGHT_STRIDE + step * RIGHT_STRIDE, T::lane());
      });
}

/* Weights with walked rows: over the n-th staged slice of the walked tile. */
template <class T, class C>
static __device__ __forceinline__ void multiply_weights(float (&sums)[T::Rows::COUNT][C::COUNT],
                                                        const Weights<T> &weights, const float *stage, int n) {
  multiply<C::SLICE>(
      sums,
      [&](float(&x)[T::Rows::COUNT], int first, int step) {
        weights.read(x, (n * C::SLICE + first) / 4 + step / 4, step % 4);
      },
      [&](float(&y)[C::COUNT], int first, int step) {
        C::read(y, stage + first * C::COLUMNS + step * C::COLUMNS, T::lane());
      });
}

/* Two stages that take turns: multiply(n, stage) runs on slice n while load(n + 1, stage), or after the last slice
   next(stage), fills the other one. */
template <int STAGE>
struct Stages {
  float *memory;
  int turn;

  /* The first slice of the first product. */
  template <class Load>
  __device__ __forceinline__ void begin(Load load) {
    load(0, memory + turn * STAGE);
  }

  template <class Load, class Next, class Multiply>
  __device__ __forceinline__ void product(int slices, Load load, Next next, Multiply multiply) {
#pragma unroll 1
    for (int n = 0; n < slices; n++) {
      wait_for_copies();
      __syncthreads(); /* slice n is there, and the other stage has been read by all */
      float *here = memory + turn * STAGE, *there = memory + (turn ^ 1) * STAGE;
      if (n + 1 < slices) load(n + 1, there);
      else next(there);
      multiply(n, here);
      turn ^= 1;
    }
  }
};

static __device__ __forceinline__ int slices_of(int count, int slice) { return (count + slice - 1) / slice; }

#endif
