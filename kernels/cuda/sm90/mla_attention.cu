/* The forward of MLAAttention on sm_90: forward.cuh in the sizes of tiles.h. */
#include "forward.cuh"
#include "tiles.h"

extern __shared__ __align__(1024) unsigned char shared_memory[];

#define KERNEL(NAME, BLOCKS, ...)                                                                                      \
  extern "C" __global__ void __launch_bounds__(Forward<__VA_ARGS__>::THREADS, BLOCKS)                                  \
      NAME(const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                \
           const __grid_constant__ TensorMap q_rope, const __grid_constant__ TensorMap k,                              \
           const __grid_constant__ TensorMap k_rope, const __grid_constant__ TensorMap v) {                            \
    const MlaParams &p = a.params;                                                                                     \
    using Kernel = Forward<__VA_ARGS__>;                                                                               \
    Kernel{a, {q, p.q}, {q_rope, p.q_rope}, {k, p.k}, {k_rope, p.k_rope}, {v, p.v},                                    \
           *reinterpret_cast<Kernel::Shared *>(shared_memory)}.run();                                                  \
  }
#define KERNELS(QK, V, BLOCK_Q, BLOCK_K, STAGES, BLOCKS)                                                               \
  KERNEL(mla_attention_f16_##QK##_##V##_##BLOCK_Q, BLOCKS, __half, __half, QK, V, BLOCK_Q, BLOCK_K, STAGES)            \
  KERNEL(mla_attention_bf16_##QK##_##V##_##BLOCK_Q, BLOCKS, __nv_bfloat16, __nv_bfloat16, QK, V, BLOCK_Q, BLOCK_K,     \
         STAGES)                                                                                                       \
  KERNEL(mla_attention_f16_f32_##QK##_##V##_##BLOCK_Q, BLOCKS, __half, float, QK, V, BLOCK_Q, BLOCK_K, STAGES)         \
  KERNEL(mla_attention_bf16_f32_##QK##_##V##_##BLOCK_Q, BLOCKS, __nv_bfloat16, float, QK, V, BLOCK_Q, BLOCK_K, STAGES)
MLA_SM90_ATTENTION(KERNELS)
