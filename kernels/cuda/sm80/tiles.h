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

#endif
