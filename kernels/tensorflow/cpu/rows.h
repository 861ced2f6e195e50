/* The row kernels. A unit of work is MLA_NORM_PART_ROWS or LOGIT_ROWS rows, TOKENS tokens, SLICE columns
   or NUMBERS numbers. */
#include "../../cuda/mla_rows.h"

enum { TOKENS = 16, NUMBERS = 16384, LOGIT_ROWS = 32, SLICE = 64 };

/* Up to LANES numbers; zeros behind them. */
static inline Floats load_some(const float *x, int64_t count) {
  Floats v = splat(0);
  if (count >= LANES) return load(x);
  memcpy(&v, x, sizeof(float) * (size_t)count);
  return v;
}

static inline void store_some(float *x, Floats v, int64_t count) {
  memcpy(x, &v, count >= LANES ? sizeof v : sizeof(float) * (size_t)count);
}

/* ---- RMSNorm: see kernels/cuda/rows/norm.cu */

static float inverse_rms(const MlaNorm *p, const float *sum) {
  Floats squares = splat(0);
  for (int c = 0; c < p->columns; c += LANES) {
    Floats a = load_some(sum + c, p->columns - c);
    squares += a * a;
  }
  return 1 / __builtin_sqrtf(sum_of_lanes(squares) / (float)p->columns + p->eps);
}

static void norm_row(const MlaNorm *p, int64_t row) {
  int64_t start = row * p->columns;
  float *sum = p->sum + start, *y = p->y + start;
  for (int c = 0; p->addend && c < p->columns; c++) sum[c] = p->x[start + c] + p->addend[start + c];
  float r = inverse_rms(p, sum);
  for (int c = 0; c < p->columns; c += LANES) {
    int rest = p->columns - c;
    store_some(y + c, load_some(sum + c, rest) * r * load_some(p->gain + c, rest), rest);
  }
}

/* dX of a row; what it adds to dGain goes to `d_gain`. */
static void norm_row_backward(const MlaNorm *p, int64_t row, float *d_gain) {
  int64_t start = row * p->columns;
  const float *sum = p->sum + start, *d_y = p->d_y + start;
  float r = inverse_rms(p, sum), *d_x = p->d_x + start;
  Floats products = splat(0);
  for (int c = 0; c < p->columns; c += LANES) {
    int rest = p->columns - c;
    Floats a = load_some(sum + c, rest), d = load_some(d_y + c, rest);
    products += d * load_some(p->gain + c, rest) * a;
    store_some(d_gain + c, load_some(d_gain + c, rest) + d * a * r, rest);
  }
  float along_row = sum_of_lanes(products) / (float)p->columns * r * r;
  for (int c = 0; c < p->columns; c += LANES) {
    int rest = p->columns - c;
    Floats d = load_some(d_y + c, rest) * load_some(p->gain + c, rest);
    store_some(d_x + c, (d - load_some(sum + c, rest) * along_row) * r, rest);
  }
  for (int c = 0; p->d_sum && c < p->columns; c++) d_x[c] += p->d_sum[start + c];
}

static void norm_part(const MlaNorm *p, int part, int is_backward) {
  int64_t first = (int64_t)part * MLA_NORM_PART_ROWS, end = first + MLA_NORM_PART_ROWS;
  float *d_gain = is_backward ? p->gain_parts + (int64_t)part * p->columns : NULL;
  for (int c = 0; is_backward && c < p->columns; c++) d_gain[c] = 0;
  for (int64_t row = first; row < end && row < p->rows; row++) {
    if (is_backward) norm_row_backward(p, row, d_gain);
    else norm_row(p, row);
  }
}

/* ---- rotary embedding */

/* A head's rope turned by the angles of a row of the tables, or back (direction −1). */
static void turn(const MlaRotary *p, const float *from, float *to, int64_t position, float direction) {
  const float *cos = p->cos + position * p->dr, *sin = p->sin + position * p->dr;
  int step = p->is_interleaved ? 2 : 1, half = p->is_interleaved ? 1 : p->dr / 2;
  for (int i = 0; i < p->dr / 2; i++) {
    int a = i * step, b = a + half;
    float x = from[a], y = from[b];
    to[a] = x * cos[a] - direction * y * sin[a];
    to[b] = y * cos[b] + direction * x * sin[b];
  }
}

static void rotary_tokens(const MlaRotary *p, int unit, int is_backward) {
  int64_t first = (int64_t)unit * TOKENS, end = first + TOKENS < p->tokens ? first + TOKENS : p->tokens;
  int d = p->dn + p->dr;
  for (int64_t row = first * p->heads; row < end * p->heads; row++) {
    float *nope = p->nope + row * p->dn, *rope = p->rope + row * p->dr, *joined = p->joined + row * d;
    int64_t position = row / p->heads % p->positions;
    if (is_backward) {
      if (p->dn) memcpy(nope, joined, sizeof(float) * (size_t)p->dn);
      turn(p, joined + p->dn, rope, position, -1);
    } else {
      if (p->dn) memcpy(joined, nope, sizeof(float) * (size_t)p->dn);
      turn(p, rope, joined + p->dn, position, 1);
    }
  }
}

/* ---- SwiGLU: see kernels/cuda/rows/swiglu.cu */

static void swiglu_numbers(const MlaSwiglu *p, int unit, int is_backward) {
  int64_t first = (int64_t)unit * NUMBERS, end = first + NUMBERS < p->count ? first + NUMBERS : p->count;
  for (int64_t i = first; i < end; i += LANES) {
    int64_t rest = end - i;
    Floats gate = load_some(p->gate + i, rest), up = load_some(p->up + i, rest);
    Floats open = 1 / (1 + exp_floats(-gate)), silu = gate * open;
    if (is_backward) {
      Floats d_out = load_some(p->d_out + i, rest);
      store_some(p->d_up + i, d_out * silu, rest);
      store_some(p->d_gate + i, d_out * up * (open + silu * (1 - open)), rest);
    } else {
      store_some(p->out + i, silu * up, rest);
    }
  }
}

/* ---- cross-entropy: see kernels/cuda/rows/cross_entropy.cu */

/* exp(logit - greatest) of a row, into `weights` if that is not NULL; returns their sum. */
static float exponentials(const float *logits, int columns, float greatest, float *weights) {
  Floats sums = splat(0);
  for (int c = 0; c < columns; c += LANES) {
    int rest = columns - c;
    Floats weight = exp_floats(load_some(logits + c, rest) - greatest);
    if (weights) store_some(weights + c, weight, rest);
    for (int i = rest; i < LANES; i++) weight[i] = 0;
    sums += weight;
  }
  return sum_of_lanes(sums);
}

static void cross_entropy_row(const MlaCrossEntropy *p, int64_t row, int is_backward) {
  const float *logits = p->logits + row * p->columns;
  int label = p->labels[row], has_label = label >= 0 && label < p->columns;
  float greatest = logits[0];
  for (int c = 1; c < p->columns; c++) greatest = logits[c] > greatest ? logits[c] : greatest;
  if (!is_backward) {
    float of_label = has_label ? logits[label] - greatest : 0;
    p->row_losses[row] = (float)natural_log(exponentials(logits, p->columns, greatest, NULL)) - of_label;
    return;
  }
  float *d_logits = p->d_logits + row * p->columns, share = *p->d_loss / (float)p->rows;
  float factor = share / exponentials(logits, p->columns, greatest, d_logits);
  for (int c = 0; c < p->columns; c++) d_logits[c] *= factor;
  if (has_label) d_logits[label] -= share;
}

static void cross_entropy_rows(const MlaCrossEntropy *p, int unit, int is_backward) {
  int64_t first = (int64_t)unit * LOGIT_ROWS, end = first + LOGIT_ROWS;
  for (int64_t row = first; row < end && row < p->rows; row++) cross_entropy_row(p, row, is_backward);
}

/* ---- embedding */

/* A slice of SLICE columns. */
static void embedding_slice(const MlaEmbedding *p, int unit) {
  int first = unit * SLICE, columns = p->columns - first < SLICE ? p->columns - first : SLICE;
  float *d_table = p->d_table + first;
  for (int64_t row = 0; row < p->table_rows; row++)
    memset(d_table + row * p->columns, 0, sizeof(float) * (size_t)columns);
  for (int64_t t = 0; t < p->tokens; t++) {
    if (p->ids[t] < 0 || p->ids[t] >= p->table_rows) continue;
    const float *from = p->d_rows + t * p->columns + first;
    float *to = d_table + (int64_t)p->ids[t] * p->columns;
    for (int c = 0; c < columns; c++) to[c] += from[c];
  }
}

/* ---- Adam: a unit of work is a piece */

static void adam_squares(const MlaAdam *p, int unit) {
  const MlaAdamPiece *piece = &p->of[unit];
  Floats sums = splat(0);
  for (int i = 0; i < piece->count; i += LANES) {
    Floats g = load_some(piece->gradient + i, piece->count - i);
    sums += g * g;
  }
  p->squares[unit] = sum_of_lanes(sums);
}

static void adam_piece(const MlaAdam *p, int unit) {
  const MlaAdamPiece *piece = &p->of[unit];
  const float keep1 = p->keep1, add1 = p->add1, keep2 = p->keep2, add2 = p->add2, rate = p->rate, smallest = p->smallest;
  const float *value = piece->value, *gradient = piece->gradient;
  const float *first_moment = p->first_moment + piece->first, *second_moment = p->second_moment + piece->first;
  /* with which the compiler makes vectors of all this */
  float *restrict new_value = piece->new_value, *restrict new_first = p->new_first_moment + piece->first;
  float *restrict new_second = p->new_second_moment + piece->first;
  float factor = p->clip_norm / *p->norm;
  if (factor > 1) factor = 1; /* NaN stays */
  for (int i = 0; i < piece->count; i++) {
    float g = gradient[i] * factor;
    float m = first_moment[i] * keep1 + g * add1, v = second_moment[i] * keep2 + g * g * add2;
    new_first[i] = m;
    new_second[i] = v;
    new_value[i] = value[i] - m * rate / (__builtin_sqrtf(v) + smallest);
  }
}

static int row_units(const MlaRowCall *call) {
  switch (call->kernel) {
    case MLA_NORM:
    case MLA_NORM_BACKWARD: return (int)call->arguments.norm.parts;
    case MLA_ROTARY:
    case MLA_ROTARY_BACKWARD: return (int)((call->arguments.rotary.tokens + TOKENS - 1) / TOKENS);
    case MLA_SWIGLU:
    case MLA_SWIGLU_BACKWARD: return (int)((call->arguments.swiglu.count + NUMBERS - 1) / NUMBERS);
    case MLA_CROSS_ENTROPY:
    case MLA_CROSS_ENTROPY_BACKWARD: return (int)((call->arguments.cross_entropy.rows + LOGIT_ROWS - 1) / LOGIT_ROWS);
    case MLA_EMBEDDING_BACKWARD: return (call->arguments.embedding.columns + SLICE - 1) / SLICE;
    case MLA_ADAM_NORM:
    case MLA_ADAM: return call->arguments.adam.pieces;
  }
  return 0;
}

static void run_row_unit(const MlaRowCall *call, int unit) {
  switch (call->kernel) {
    case MLA_NORM:
    case MLA_NORM_BACKWARD: norm_part(&call->arguments.norm, unit, call->kernel == MLA_NORM_BACKWARD); break;
    case MLA_ROTARY:
    case MLA_ROTARY_BACKWARD: rotary_tokens(&call->arguments.rotary, unit, call->kernel == MLA_ROTARY_BACKWARD); break;
    case MLA_SWIGLU:
    case MLA_SWIGLU_BACKWARD: swiglu_numbers(&call->arguments.swiglu, unit, call->kernel == MLA_SWIGLU_BACKWARD); break;
    case MLA_CROSS_ENTROPY: cross_entropy_rows(&call->arguments.cross_entropy, unit, 0); break;
    case MLA_CROSS_ENTROPY_BACKWARD: cross_entropy_rows(&call->arguments.cross_entropy, unit, 1); break;
    case MLA_EMBEDDING_BACKWARD: embedding_slice(&call->arguments.embedding, unit); break;
    case MLA_ADAM_NORM: adam_squares(&call->arguments.adam, unit); break;
    case MLA_ADAM: adam_piece(&call->arguments.adam, unit); break;
  }
}
