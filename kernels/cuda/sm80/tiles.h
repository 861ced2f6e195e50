/* The instantiations of the kernels in this folder, for the .cu files and for plan.c. */
#ifndef MLA_SM80_TILES_H
#define MLA_SM80_TILES_H

/* F(HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS) of mla_attention.cu; of a head size the tile with more
   rows comes first. */
#define MLA_SM80_ATTENTION(F) \
  F(192, 128, 128, 64, 4) \
  F(192, 128, 64, 64, 4) \
  F(128, 128, 128, 64, 4) \
  F(128, 128, 64, 64, 4) \
  F(96, 64, 128, 64, 4) \
  F(96, 64, 64, 64, 4)         \
  F(64, 64, 128, 64, 4) \
  F(64, 64, 64, 64, 4)

/* The same of floats as TF32, and of split halves, whose walks go by divisors of MLA_SPLIT_ROWS. */
#define MLA_SM80_ATTENTION_TF32(F) \
  F(192, 128, 128, 64, 8)          \
  F(192, 128, 128, 32, 8)          \
  F(192, 128, 64, 32, 4)           \
  F(128, 128, 128, 64, 8)          \
  F(128, 128, 64, 64, 4)           \
  F(96, 64, 128, 64, 8)            \
  F(96, 64, 64, 64, 4)             \
  F(64, 64, 128, 64, 8)            \
  F(64, 64, 64, 64, 4)
#define MLA_SM80_ATTENTION_F32(F) \
  F(192, 128, 128, 64, 8)         \
  F(192, 128, 128, 32, 8)         \
  F(192, 128, 64, 64, 4)          \
  F(128, 128, 128, 64, 8)         \
  F(128, 128, 64, 64, 4)          \
  F(96, 64, 128, 64, 8)           \
  F(96, 64, 64, 64, 4)            \
  F(64, 64, 128, 64, 8)           \
  F(64, 64, 64, 64, 4)

/* F(HEAD_QK, HEAD_V, BLOCK, WALKED) of mla_attention_dq.cu, BLOCK_Q and BLOCK_K there, and of mla_attention_dkv.cu, BLOCK_K
   and BLOCK_Q. Two warps own 32 rows of a block. Of a head size, the first that fits and fills the GPU is taken. */
#define MLA_SM80_BACKWARD(F) \
  F(192, 128, 128, 64)       \
  F(192, 128, 128, 32)       \
  F(192, 128, 64, 64)        \
  F(192, 128, 64, 32)        \
  F(128, 128, 128, 64)       \
  F(128, 128, 64, 64)        \
  F(128, 128, 64, 32)        \
  F(96, 64, 128, 64)         \
  F(96, 64, 64, 64)          \
  F(64, 64, 128, 64)         \
  F(64, 64, 64, 64)

/* The same of TF32 and of split halves: two warps own 16 rows. */
#define MLA_SM80_BACKWARD_TF32(F) \
  F(192, 128, 96, 32)             \
  F(192, 128, 64, 32)             \
  F(192, 128, 48, 32)             \
  F(128, 128, 96, 32)             \
  F(128, 128, 48, 32)             \
  F(96, 64, 96, 32)               \
  F(96, 64, 48, 32)               \
  F(64, 64, 96, 32)               \
  F(64, 64, 48, 32)
#define MLA_SM80_BACKWARD_F32(F) \
  F(192, 128, 96, 32)            \
  F(192, 128, 64, 32)            \
  F(192, 128, 48, 32)            \
  F(128, 128, 96, 32)            \
  F(128, 128, 64, 32)            \
  F(96, 64, 96, 64)              \
  F(96, 64, 64, 64)              \
  F(64, 64, 96, 64)              \
  F(64, 64, 64, 64)

#endif
