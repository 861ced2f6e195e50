/* The forward of MLAAttention on sm_90: forward.cuh at the sizes of heads that plan.c knows. */
#include "forward.cuh"

extern __shared__ __align__(1024) unsigned char shared_memory[];

#define MLA_FORWARD_KERNEL(NAME, BLOCKS, ...)                                                                          \
  extern "C" __global__ void __launch_bounds__(Forward<__VA_ARGS__>::THREADS, BLOCKS)                                  \
      NAME(const __grid_constant__ MlaArguments a, const __grid_constant__ TensorMap q,                                \
           const __grid_constant__ TensorMap q_rope, const __grid_constant__ TensorMap k,                              \
           const __grid_constant__ TensorMap k_rope, const __grid_constant__ TensorMap v) {                            \
    const MlaParams &p = a.params;                                                                                     \
    using Kernel = Forward<__VA_ARGS__>;                                                                               \
    Kernel{a, {q, p.q}, {q_rope, p.q_rope}, {k, p.k}, {k_rope, p.k_rope}, {v, p.v},                                    \
           *reinterpret_cast<Kernel::Shared *>(shared_memory)}.run();                                                  \
  }
#define MLA_FORWARD_KERNELS(SIZES, BLOCKS, ...)                                                                        \
  MLA_FORWARD_KERNEL(mla_attention_f16_##SIZES, BLOCKS, __half, __half, __VA_ARGS__)                                   \
  MLA_FORWARD_KERNEL(mla_attention_bf16_##SIZES, BLOCKS, __nv_bfloat16, __nv_bfloat16, __VA_ARGS__)                    \
  MLA_FORWARD_KERNEL(mla_attention_f16_f32_##SIZES, BLOCKS, __half, float, __VA_ARGS__)                                \
  MLA_FORWARD_KERNEL(mla_attention_bf16_f32_##SIZES, BLOCKS, __nv_bfloat16, float, __VA_ARGS__)

MLA_FORWARD_KERNELS(192_128_q128, 1, 192, 128, 128, 2, 2)
MLA_FORWARD_KERNELS(192_128_q64, 2, 192, 128, 64, 1, 2)
MLA_FORWARD_KERNELS(128_128_q128, 1, 128, 128, 128, 2, 2)
MLA_FORWARD_KERNELS(128_128_q64, 2, 128, 128, 64, 1, 3)
MLA_FORWARD_KERNELS(128_64_q128, 1, 128, 64, 128, 2, 2)
MLA_FORWARD_KERNELS(128_64_q64, 2, 128, 64, 64, 1, 3)
MLA_FORWARD_KERNELS(64_64_q128, 1, 64, 64, 128, 2, 2)
MLA_FORWARD_KERNELS(64_64_q64, 2, 64, 64, 64, 1, 4)
