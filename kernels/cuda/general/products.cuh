/* The two products that everything is made of, on float32 multiply-adds.

   A thread's rows are ROW_LANES apart, its columns of a product of rows with rows LANES apart, and its columns of a product
   of weights with rows are groups of VECTOR side by side. Its numbers of one side stay in registers while those of the other
   pass by, four steps of depth at a time. */
#ifndef MLA_GENERAL_PRODUCTS_CUH
#define MLA_GENERAL_PRODUCTS_CUH

#include "operands.cuh"

constexpr int WEIGHTS_STRIDE = MLA_GENERAL_WEIGHTS_STRIDE;

/* A block's threads over ROWS rows: LANES threads side by side in a warp share each row. */
template <int ROWS_, int LANES_>
struct Tile {
  static constexpr int ROWS = ROWS_, LANES = LANES_;
  static constexpr int ROW_LANES = THREADS / LANES, THREAD_ROWS = ROWS / ROW_LANES, THREAD_WALK = WALK / LANES;
  static_assert(ROWS % ROW_LANES == 0 && 32 % LANES == 0, "whole rows, within a warp");

  static __device__ __forceinline__ int lane() { return threadIdx.x % LANES; }
  static __device__ __forceinline__ int row(int i) { return threadIdx.x / LANES + i * ROW_LANES; }
  static __device__ __forceinline__ int walked(int j) { return lane() + j * LANES; }
};

/* A thread's part of COLUMNS columns. */
template <class T, int COLUMNS_>
struct Columns {
  static constexpr int COLUMNS = COLUMNS_, COUNT = COLUMNS / T::LANES, SLICE = MLA_GENERAL_SLICE(COLUMNS);
  static constexpr int VECTOR = COUNT % 4 == 0 ? 4 : 2, GROUPS = COUNT / VECTOR;
  static_assert(COUNT * T::LANES == COLUMNS && COUNT % VECTOR == 0, "whole vectors");

  static __device__ __forceinline__ int column(int c) {
    return c / VECTOR * T::LANES * VECTOR + T::lane() * VECTOR + c % VECTOR;
  }
  static __device__ __forceinline__ void read(float (&to)[COUNT], const float *row) {
#pragma unroll
    for (int n = 0; n < GROUPS; n++) {
      const float *at = row + column(n * VECTOR);
      if constexpr (VECTOR == 4) {
        float4 x = *(const float4 *)at;
        to[4 * n] = x.x, to[4 * n + 1] = x.y, to[4 * n + 2] = x.z, to[4 * n + 3] = x.w;
      } else {
        float2 x = *(const float2 *)at;
        to[2 * n] = x.x, to[2 * n + 1] = x.y;
      }
    }
  }
};

template <int M, int N>
static __device__ __forceinline__ void clear(float (&sums)[M][N]) {
#pragma unroll
  for (int i = 0; i < M; i++)
#pragma unroll
    for (int j = 0; j < N; j++) sums[i][j] = 0;
}

static __device__ __forceinline__ float element(const float4 &x, int n) {
  return n == 0 ? x.x : n == 1 ? x.y : n == 2 ? x.z : x.w;
}

/* sums += left · rightᵀ over CHUNK staged columns. */
template <class T>
static __device__ __forceinline__ void multiply_rows(float (&sums)[T::THREAD_ROWS][T::THREAD_WALK], const float *left,
                                                     const float *right) {
  left += T::row(0) * CHUNK_STRIDE;
  right += T::walked(0) * CHUNK_STRIDE;
#pragma unroll 2
  for (int c = 0; c < CHUNK; c += 4) {
    float4 x[T::THREAD_ROWS];
#pragma unroll
    for (int i = 0; i < T::THREAD_ROWS; i++) x[i] = *(const float4 *)(left + i * T::ROW_LANES * CHUNK_STRIDE + c);
#pragma unroll
    for (int j = 0; j < T::THREAD_WALK; j++) {
      float4 y = *(const float4 *)(right + j * T::LANES * CHUNK_STRIDE + c);
#pragma unroll
      for (int e = 0; e < 4; e++)
#pragma unroll
        for (int i = 0; i < T::THREAD_ROWS; i++) sums[i][j] += element(x[i], e) * element(y, e);
    }
  }
}

/* sums += weights · rows over the SLICE staged rows that come after `first` rows of the walked tile. */
template <class T, class C>
static __device__ __forceinline__ void multiply_weights(float (&sums)[T::THREAD_ROWS][C::COUNT], const float *weights,
                                                        const float *rows, int first) {
  weights += T::row(0) * WEIGHTS_STRIDE + first;
#pragma unroll 2
  for (int r = 0; r < C::SLICE; r += 4) {
    float4 x[T::THREAD_ROWS];
#pragma unroll
    for (int i = 0; i < T::THREAD_ROWS; i++) x[i] = *(const float4 *)(weights + i * T::ROW_LANES * WEIGHTS_STRIDE + r);
#pragma unroll
    for (int e = 0; e < 4; e++) {
      float y[C::COUNT];
      C::read(y, rows + (r + e) * C::COLUMNS);
#pragma unroll
      for (int c = 0; c < C::COUNT; c++)
#pragma unroll
        for (int i = 0; i < T::THREAD_ROWS; i++) sums[i][c] += element(x[i], e) * y[c];
    }
  }
}

/* Two stages that take turns: multiply(n, stage) runs on slice n while load(n + 1, stage), or after the last slice
   next(stage), fills the other one. */
template <int STAGE>
struct Stages {
  float *memory;
  int turn;

  /* Whoever comes first has nobody to be loaded by. */
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
