/* One call of a kernel of the layers around attention, row by row, without TensorFlow and without Node. All tensors are
   float32 and contiguous; those that a kernel neither reads nor writes are NULL. */
#ifndef MLA_ROWS_H
#define MLA_ROWS_H

#include <stdint.h>

typedef enum {
  MLA_NORM,
  MLA_NORM_BACKWARD,
  MLA_ROTARY,
  MLA_ROTARY_BACKWARD,
  MLA_SWIGLU,
  MLA_SWIGLU_BACKWARD
} MlaRowKernel;

/* RMSNorm: y = x / sqrt(mean(x²) + eps) · gain. */
typedef struct {
  int64_t rows;
  int columns;
  float eps;
  const float *x, *gain, *d_y; /* [rows, columns], [columns], [rows, columns] */
  float *y, *d_x, *d_gain;
  int64_t parts;     /* of MLA_NORM_PART_ROWS rows each: */
  float *gain_parts; /* [parts, columns], d_gain of each, which are added in order afterwards */
} MlaNorm;

enum { MLA_NORM_PART_ROWS = 32 };

/* Rotary embedding: of every head the columns `rope`, turned by their position, stand behind the columns `nope` in `joined`.
   The gradient goes from `joined` back to the two, and turns back. */
typedef struct {
  int64_t tokens;
  int64_t positions; /* rows of the tables: token t reads row t % positions */
  int heads, dn, dr;
  int is_interleaved; /* pairs are neighbours; else column j pairs with j + dr / 2 */
  float *nope, *rope, *joined; /* [tokens, heads, dn], [tokens, heads, dr], [tokens, heads, dn + dr] */
  const float *cos, *sin;      /* [positions, dr] */
} MlaRotary;

/* out = silu(gate) · up. */
typedef struct {
  int64_t count;
  const float *gate, *up, *d_out;
  float *out, *d_gate, *d_up;
} MlaSwiglu;

typedef struct {
  MlaRowKernel kernel;
  union {
    MlaNorm norm;
    MlaRotary rotary;
    MlaSwiglu swiglu;
  };
} MlaRowCall;

#endif
