/* The sizes of tiles, for plan.c and for the kernels.

   A block owns some rows (queries, or in Dkv keys) and walks over tiles of WALK rows of the other side. Of each product it
   stages a slice at a time: CHUNK columns of both sides where rows meet rows (Q·Kᵀ), or SLICE walked rows with all their
   columns where weights meet rows (P·V). So no head is too large. */
#ifndef MLA_GENERAL_TILES_H
#define MLA_GENERAL_TILES_H

enum {
  MLA_GENERAL_THREADS = 256,
  MLA_GENERAL_WALK = 128,
  MLA_GENERAL_CHUNK = 32,
  MLA_GENERAL_CHUNK_STRIDE = MLA_GENERAL_CHUNK + 4, /* eight rows side by side share no banks */
  MLA_GENERAL_WEIGHTS_STRIDE = MLA_GENERAL_WALK + 4,
};

#define MLA_GENERAL_SLICE(columns) ((columns) > 192 ? 16 : 32)

/* Floats of a staged slice, of which there are two: one is multiplied while the other arrives. */
#define MLA_GENERAL_STAGE(rows, columns)                                                     \
  (((rows) + MLA_GENERAL_WALK) * MLA_GENERAL_CHUNK_STRIDE > MLA_GENERAL_SLICE(columns) * (columns) \
       ? ((rows) + MLA_GENERAL_WALK) * MLA_GENERAL_CHUNK_STRIDE                                   \
       : MLA_GENERAL_SLICE(columns) * (columns))

/* Floats of weights; then the stages; then the range, lse and delta of each row owned; then two walked tiles' lse and delta. */
#define MLA_GENERAL_SHARED_BYTES(rows, columns)                                                        \
  (4 * ((rows) * MLA_GENERAL_WEIGHTS_STRIDE + 2 * MLA_GENERAL_STAGE(rows, columns) + 4 * (rows) + \
        4 * MLA_GENERAL_WALK))

#endif
