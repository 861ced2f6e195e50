/* The tiles of this folder's attention kernels, for the .cu files and for plan.c. Heads' columns are whole panels of 64. */
#ifndef MLA_SM90_TILES_H
#define MLA_SM90_TILES_H

/* F(HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, STAGES, BLOCKS) of forward.cuh: BLOCKS is how many of them a multiprocessor holds.
   Those of the same heads stand together, the largest first. */
#define MLA_SM90_ATTENTION(F)    \
  F(192, 128, 128, 128, 2, 1)    \
  F(192, 128, 64, 64, 2, 2)      \
  F(128, 128, 128, 128, 2, 1)    \
  F(128, 128, 64, 64, 3, 2)      \
  F(128, 64, 128, 128, 2, 1)     \
  F(128, 64, 64, 64, 3, 2)       \
  F(64, 64, 128, 128, 2, 1)      \
  F(64, 64, 64, 64, 4, 2)

/* F(HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, K_STAGES, V_STAGES) of mla_attention_dq.cu. */
#define MLA_SM90_ATTENTION_DQ(F) F(192, 128, 128, 64, 4, 2)

/* F(HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, Q_STAGES, D_OUT_STAGES) of mla_attention_dkv.cu. */
#define MLA_SM90_ATTENTION_DKV(F) F(192, 128, 64, 128, 3, 3)

/* The same of float32 as split halves. Of a head size the block of more rows comes first; consumers have 64 rows each, or
   share 64. */
#define MLA_SM90_ATTENTION_F32(F) \
  F(192, 128, 128, 64, 2, 1)      \
  F(192, 128, 64, 64, 2, 2)
#define MLA_SM90_ATTENTION_DQ_F32(F) \
  F(192, 128, 128, 32, 2, 1)         \
  F(192, 128, 64, 32, 3, 3)
#define MLA_SM90_ATTENTION_DKV_F32(F) \
  F(192, 128, 32, 128, 2, 1)          \
  F(192, 128, 32, 64, 3, 3)

#endif
