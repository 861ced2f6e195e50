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

/* F(HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K) of mla_attention_dq.cu: 32 queries a pair of warps. */
#define MLA_SM80_ATTENTION_DQ(F) \
  F(192, 128, 128, 64)           \
  F(128, 128, 128, 64)           \
  F(96, 64, 128, 64)             \
  F(64, 64, 128, 64)

/* F(HEAD_QK, HEAD_V, BLOCK_K, BLOCK_Q) of mla_attention_dkv.cu: 32 keys a pair of warps. */
#define MLA_SM80_ATTENTION_DKV(F) \
  F(192, 128, 128, 64)            \
  F(128, 128, 128, 64)            \
  F(96, 64, 128, 64)              \
  F(64, 64, 128, 64)

#endif
