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
  MLA_SWIGLU_BACKWARD,
  MLA_CROSS_ENTROPY,
  MLA_CROSS_ENTROPY_BACKWARD,
  MLA_EMBEDDING_BACKWARD,
  MLA_ADAM_NORM,
  MLA_ADAM
} MlaRowKernel;

/* RMSNorm: y = sum / sqrt(mean(sum²) + eps) · gain, where sum is x + addend, or x itself without an addend. The addend's gradient
   is that of x, which has d_sum in it if that is given. */
typedef struct {
  int64_t rows;
  int columns;
  float eps;
  const float *x, *addend, *gain; /* [rows, columns], the same or NULL, [columns] */
  float *sum, *y;                 /* [rows, columns]; the gradient reads sum */
  const float *d_y, *d_sum;       /* [rows, columns], the same or NULL */
  float *d_x, *d_gain;
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

/* The mean over all rows of -log softmax(logits)[label], natural logarithm. A label outside the columns counts for nothing. */
typedef struct {
  int64_t rows;
  int columns;
  const float *logits;   /* [rows, columns] */
  const int32_t *labels; /* [rows] */
  const float *d_loss;   /* [1] */
  float *loss, *d_logits;
  float *row_losses; /* [rows], which are added in order afterwards */
} MlaCrossEntropy;

/* The gradient of a table of which row ids[t] was read for token t: rows of d_rows with one id are added in an order that the ids
   fix. An id outside the table counts for nothing. */
typedef struct {
  int64_t tokens;
  int table_rows, columns;
  const int32_t *ids;  /* [tokens] */
  const float *d_rows; /* [tokens, columns] */
  float *d_table;      /* [table_rows, columns] */
  int bin_rows;        /* table rows of a bin: */
  int32_t *order;      /* [tokens], those that read the first bin, then those of the next, each in their order */
  int32_t *bins;       /* [bins + 1], where they begin in `order` */
} MlaEmbedding;

/* A part of one of the tensors that Adam updates. */
typedef struct {
  const float *value, *gradient;
  float *new_value;
  int64_t first; /* where its moments begin */
  int count;     /* MLA_ADAM_PIECE at most */
} MlaAdamPiece;

enum { MLA_ADAM_PIECE = 16384 };

/* Adam (arXiv:1412.6980, algorithm 1): one update of any number of tensors, whose moments stand in one tensor each, with
   gradients scaled down to the global norm `clip_norm` if theirs is greater. The corrections of both moments are in `rate` and
   `smallest`. MLA_ADAM_NORM is its first part, the norm. */
typedef struct {
  int pieces;
  const MlaAdamPiece *of; /* in the memory of who computes */
  float keep1, add1, keep2, add2, smallest, rate, clip_norm;
  const float *first_moment, *second_moment;
  float *new_first_moment, *new_second_moment;
  float *norm;    /* [1], of the gradients as they are */
  float *squares; /* [pieces]: sums of squares, which are added in order afterwards */
} MlaAdam;

/* What a row kernel computes: the only argument of those on a GPU. */
typedef union {
  MlaNorm norm;
  MlaRotary rotary;
  MlaSwiglu swiglu;
  MlaCrossEntropy cross_entropy;
  MlaEmbedding embedding;
  MlaAdam adam;
} MlaRowArguments;

typedef struct {
  MlaRowKernel kernel;
  MlaRowArguments arguments;
} MlaRowCall;

#endif
