/* The sizes of tiles, for plan.c and for the kernels.

   A block owns some rows (queries, or in Dkv keys) and walks over tiles of WALK rows of the other side. Of each
   product it stages a slice at a time: CHUNK columns of both sides where rows meet rows (Q·Kᵀ), or SLICE walked rows
   with all their columns where weights meet rows (P·V). So no head is too large. */
#ifndef MLA_GENERAL_TILES_H
#define MLA_GENERAL_TILES_H

enum {
  MLA_GENERAL_THREADS = 256,
  MLA_GENERAL_WALK = 128,
  MLA_GENERAL_CHUNK = 32,
};

#define MLA_GENERAL_SLICE(columns) ((columns) > 192 ? 16 : 32)

/* Floats of a chunk of so many rows: [CHUNK][rows], four apart, so that 8 columns of 4 rows lie in 32 banks. */
#define MLA_GENERAL_CHUNK_STRIDE(rows) ((rows) + 4)
#define MLA_GENERAL_CHUNK_FLOATS(rows) (MLA_GENERAL_CHUNK * MLA_GENERAL_CHUNK_STRIDE(rows))

/* Floats of a staged slice, of which there are two: one is multiplied while the other arrives. */
#define MLA_GENERAL_CHUNKS(rows) (MLA_GENERAL_CHUNK_FLOATS(rows) + MLA_GENERAL_CHUNK_FLOATS(MLA_GENERAL_WALK))
#define MLA_GENERAL_STAGE(rows, columns)                               \
  (MLA_GENERAL_CHUNKS(rows) > MLA_GENERAL_SLICE(columns) * (columns) \
       ? MLA_GENERAL_CHUNKS(rows)                                       \
       : MLA_GENERAL_SLICE(columns) * (columns))

/* Floats of weights; then the stages; then the range, lse and delta of each row owned; then two walked tiles' lse and
   delta. */
#define MLA_GENERAL_SHARED_BYTES(rows, columns)                                                           \
  (4 * ((rows) * MLA_GENERAL_WALK + 2 * MLA_GENERAL_STAGE(rows, columns) + 4 * (rows) + 4 * MLA_GENERAL_WALK))

#endif
