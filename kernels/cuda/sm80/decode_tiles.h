/* The sizes of the kernels of MLADecode in this folder, for the .cu files and for plan_decode.c. */
#ifndef MLA_SM80_DECODE_TILES_H
#define MLA_SM80_DECODE_TILES_H

enum {
  MLA_DECODE_DN = 512,
  MLA_DECODE_DR = 64,
  MLA_DECODE_DQK = MLA_DECODE_DN + MLA_DECODE_DR,
  MLA_DECODE_THREADS = 256,
  MLA_DECODE_DEPTH_GROUPS = 4,
  MLA_DECODE_BLOCK_K = 32, /* keys in shared memory at a time */

  MLA_MERGE_WARPS = 4, /* of a block, each with a row */
  MLA_MERGE_BATCH = 8, /* splits that a lane loads at a time */
  MLA_MERGE_MOST_GROUPS = 8,
  MLA_MERGE_MOST_SPLITS = 128,

  MLA_DECODE_DQ_BLOCK_Q = 32, /* packed rows of a block */
  MLA_DECODE_DQ_STAGES = 3,
  MLA_DECODE_DKV_BLOCK_K = 32, /* keys of a block */
  MLA_DECODE_DKV_BLOCK_Q = 16, /* packed rows in shared memory at a time */
  MLA_DECODE_DKV_STAGES = 3,
};

/* F(BLOCK_Q, STAGES) of mla_decode.cu: packed rows of a block, and tiles of keys in shared memory. */
#define MLA_DECODE_TILES(F) \
  F(16, 4)                  \
  F(64, 3)

/* Bytes of shared memory: keys, parts of scores, weights of two tiles, and a factor for each row. */
#define MLA_DECODE_SHARED(BLOCK_Q, STAGES)                                    \
  ((STAGES) * MLA_DECODE_BLOCK_K * MLA_DECODE_DQK * 2 +                       \
   MLA_DECODE_DEPTH_GROUPS * (BLOCK_Q) * MLA_DECODE_BLOCK_K * 4 +             \
   2 * (BLOCK_Q) * MLA_DECODE_BLOCK_K * 2 + (BLOCK_Q) * 4)

/* Likewise of mla_decode_dq.cu: keys, parts of scores and dP, dS of two tiles, factors. */
#define MLA_DECODE_DQ_SHARED                                                            \
  (MLA_DECODE_DQ_STAGES * MLA_DECODE_BLOCK_K * MLA_DECODE_DQK * 2 +                     \
   2 * MLA_DECODE_DEPTH_GROUPS * MLA_DECODE_DQ_BLOCK_Q * MLA_DECODE_BLOCK_K * 4 +       \
   2 * MLA_DECODE_DQ_BLOCK_Q * MLA_DECODE_BLOCK_K * 2 + MLA_DECODE_DQ_BLOCK_Q * 4)

/* And of mla_decode_dkv.cu: queries, dOut, three floats a row; parts of scores and dP, P and dS of two tiles, factors. */
#define MLA_DECODE_DKV_SHARED                                                                                 \
  (MLA_DECODE_DKV_STAGES * MLA_DECODE_DKV_BLOCK_Q * ((MLA_DECODE_DQK + MLA_DECODE_DN) * 2 + 3 * 4) +          \
   2 * MLA_DECODE_DEPTH_GROUPS * MLA_DECODE_DKV_BLOCK_K * MLA_DECODE_DKV_BLOCK_Q * 4 +                        \
   2 * MLA_DECODE_DKV_BLOCK_K * 2 * MLA_DECODE_DKV_BLOCK_Q * 2 + MLA_DECODE_DKV_BLOCK_K * 4)

#endif
