#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "call.h"

static void shape_text(char *text, size_t size, const int64_t *dims, int rank) {
  size_t at = (size_t)snprintf(text, size, "[");
  for (int i = 0; i < rank && at < size; i++)
    at += (size_t)snprintf(text + at, size - at, i ? ", %lld" : "%lld", (long long)dims[i]);
  if (at < size) snprintf(text + at, size - at, "]");
}

/* The n-th input's name: what stands before the colon. */
static int name_length(const char *definition) { return (int)strcspn(definition, ":"); }

static void expect_shape(Call *call, int input, const int64_t *expected, int rank) {
  if (is_failed(call)) return;
  const TF_Tensor *tensor = call->inputs[input];
  int64_t got[8] = {0};
  int got_rank = tf.TF_NumDims(tensor), is_same = got_rank == rank;
  for (int i = 0; i < got_rank && i < 8; i++) {
    got[i] = tf.TF_Dim(tensor, i);
    is_same = is_same && got[i] == expected[i];
  }
  if (is_same) return;
  const char *definition = call->attributes->op->inputs[input];
  char want[96], have[160], message[384];
  shape_text(want, sizeof want, expected, rank);
  shape_text(have, sizeof have, got, got_rank < 8 ? got_rank : 8);
  snprintf(message, sizeof message, "%s: %.*s must be %s for layout '%s', got %s", call->attributes->op->name,
           name_length(definition), definition, want, call->attributes->layout->name, have);
  tf.TF_SetStatus(call->status, TF_INVALID_ARGUMENT, message);
}

static void expect_rank(Call *call, int input, int rank) {
  if (is_failed(call) || tf.TF_NumDims(call->inputs[input]) == rank) return;
  const char *definition = call->attributes->op->inputs[input];
  char message[160];
  snprintf(message, sizeof message, "%s: %.*s must have rank %d, got %d", call->attributes->op->name,
           name_length(definition), definition, rank, tf.TF_NumDims(call->inputs[input]));
  tf.TF_SetStatus(call->status, TF_INVALID_ARGUMENT, message);
}

/* The dims of an input with heads. */
static Dims dims_of(Call *call, int input) {
  expect_rank(call, input, RANK);
  if (is_failed(call)) return (Dims){0};
  const Layout *layout = call->attributes->layout;
  const TF_Tensor *tensor = call->inputs[input];
  return (Dims){tf.TF_Dim(tensor, layout->batch), tf.TF_Dim(tensor, layout->position),
                tf.TF_Dim(tensor, layout->head), tf.TF_Dim(tensor, 3)};
}

void shape_of(const Layout *layout, Dims dims, int64_t *shape) {
  shape[layout->batch] = dims.batch;
  shape[layout->position] = dims.position;
  shape[layout->head] = dims.head;
  shape[3] = dims.depth;
}

static MlaRows rows_of(const Layout *layout, Dims dims) {
  int64_t shape[RANK], strides[RANK];
  shape_of(layout, dims, shape);
  strides[3] = 1;
  for (int i = 2; i >= 0; i--) strides[i] = strides[i + 1] * shape[i + 1];
  return (MlaRows){NULL, strides[layout->batch], strides[layout->position], strides[layout->head]};
}

/* Rows without heads: [b, s, d], or [s, b, d] if the layout has the position first. */
static MlaRows shared_rows_of(const Layout *layout, Dims dims) {
  dims.head = 1;
  MlaRows rows = rows_of(layout, dims);
  rows.head = 0;
  return rows;
}

/* The rows of a cache, [b, s, d] in every layout. */
static MlaRows cache_rows_of(Dims dims) {
  return (MlaRows){NULL, dims.position * dims.depth, dims.depth, 0};
}

MlaRows rows_at(MlaRows rows, const TF_Tensor *tensor) {
  rows.start = tf.TF_TensorData(tensor);
  return rows;
}

MlaRows rows_after(MlaRows rows, int columns, MlaType type) {
  rows.start = (char *)rows.start + (size_t)columns * (type == MLA_FLOAT32 ? 4 : 2);
  return rows;
}

static void expect_lengths(Call *call, int input, int64_t batch) {
  if (tf.TF_TensorElementCount(call->inputs[input]) > 0) expect_shape(call, input, (int64_t[]){batch}, 1);
}

static const int32_t *lengths_of(const TF_Tensor *tensor) {
  return tf.TF_TensorElementCount(tensor) > 0 ? tf.TF_TensorData(tensor) : NULL;
}

static void expect_heads(Call *call, Dims dims, Dims keys) {
  if (is_failed(call)) return;
  int is_multiple = keys.head == 0 ? dims.head == 0 : dims.head % keys.head == 0;
  int64_t largest[] = {dims.batch, dims.head, keys.head, dims.depth, keys.depth, dims.position, keys.position};
  int is_small = dims.position * (dims.head ? dims.head : 1) <= INT_MAX;
  for (size_t i = 0; i < sizeof largest / sizeof *largest; i++) is_small = is_small && largest[i] <= INT_MAX;
  char message[160];
  if (is_multiple && is_small) return;
  if (is_multiple)
    snprintf(message, sizeof message, "%s: rows times heads must be below 2^31", call->attributes->op->name);
  else
    snprintf(message, sizeof message, "%s: hq must be a multiple of hkv=%lld, got hq=%lld", call->attributes->op->name,
             (long long)keys.head, (long long)dims.head);
  tf.TF_SetStatus(call->status, TF_INVALID_ARGUMENT, message);
}

static void describe_attention(Call *call) {
  const Layout *layout = call->attributes->layout;
  MlaParams *p = &call->params;
  Dims q = dims_of(call, 0), k = dims_of(call, 1), v = dims_of(call, 2);
  TF_Tensor **in = call->inputs;
  int has_rope = tf.TF_NumDims(in[3]) == 3;
  int64_t rope = has_rope ? tf.TF_Dim(in[3], 2) : 0;
  Dims keys = {q.batch, k.position, k.head, q.depth - rope};
  int64_t shape[RANK], shared[3];
  shape_of(layout, keys, shape);
  expect_shape(call, 1, shape, RANK);
  keys.depth = v.depth;
  shape_of(layout, keys, shape);
  expect_shape(call, 2, shape, RANK);
  shared[layout->batch < layout->position ? 0 : 1] = q.batch;
  shared[layout->batch < layout->position ? 1 : 0] = k.position;
  shared[2] = rope;
  if (has_rope) expect_shape(call, 3, shared, 3);
  else if (tf.TF_TensorElementCount(in[3]) > 0) expect_rank(call, 3, 3);
  expect_lengths(call, 4, q.batch);
  expect_lengths(call, 5, q.batch);
  expect_heads(call, q, k);
  if (is_failed(call)) return;

  *p = (MlaParams){
      .batch = (int)q.batch,
      .hq = (int)q.head,
      .hkv = (int)k.head,
      .sq = (int)q.position,
      .skv = (int)k.position,
      .dn = (int)(q.depth - rope),
      .dr = (int)rope,
      .dv = (int)v.depth,
      .type = p->type,
      .q_lengths = lengths_of(in[4]),
      .kv_lengths = lengths_of(in[5]),
      .q = rows_at(rows_of(layout, q), in[0]),
      .k = rows_at(rows_of(layout, k), in[1]),
      .k_rope = rows_at(shared_rows_of(layout, (Dims){q.batch, k.position, 1, rope}), in[3]),
      .v = rows_at(rows_of(layout, v), in[2]),
      .out = rows_of(layout, (Dims){q.batch, q.position, q.head, v.depth}),
  };
  p->q_rope = rows_after(p->q, p->dn, p->type);
}

static void describe_decode(Call *call) {
  const Layout *layout = call->attributes->layout;
  MlaParams *p = &call->params;
  Dims q = dims_of(call, 0), rope = dims_of(call, 1);
  expect_rank(call, 2, 3);
  if (is_failed(call)) return;
  TF_Tensor **in = call->inputs;
  int64_t keys = tf.TF_Dim(in[2], 1), shape[RANK];
  shape_of(layout, (Dims){q.batch, q.position, q.head, rope.depth}, shape);
  expect_shape(call, 1, shape, RANK);
  expect_shape(call, 2, (int64_t[]){q.batch, keys, q.depth}, 3);
  expect_shape(call, 3, (int64_t[]){q.batch, keys, rope.depth}, 3);
  expect_lengths(call, 4, q.batch);
  expect_heads(call, q, (Dims){q.batch, keys, 1, q.depth});
  if (is_failed(call)) return;

  *p = (MlaParams){
      .batch = (int)q.batch,
      .hq = (int)q.head,
      .hkv = 1,
      .sq = (int)q.position,
      .skv = (int)keys,
      .dn = (int)q.depth,
      .dr = (int)rope.depth,
      .dv = (int)q.depth,
      .is_decode = 1,
      .type = p->type,
      .kv_lengths = lengths_of(in[4]),
      .q = rows_at(rows_of(layout, q), in[0]),
      .q_rope = rows_at(rows_of(layout, rope), in[1]),
      .k = rows_at(cache_rows_of((Dims){q.batch, keys, 1, q.depth}), in[2]),
      .k_rope = rows_at(cache_rows_of((Dims){q.batch, keys, 1, rope.depth}), in[3]),
      .out = rows_of(layout, q),
  };
  p->v = p->k;
}

/* Gradients of lse, where somebody holds it. */
static const float *d_lse_of(Call *call, int input, int64_t batch, int64_t head, int64_t position) {
  if (tf.TF_NumDims(call->inputs[input]) != 3) return NULL;
  expect_shape(call, input, (int64_t[]){batch, head, position}, 3);
  return tf.TF_TensorData(call->inputs[input]);
}

static void describe_delta(Call *call) {
  Dims out = dims_of(call, 0);
  if (is_failed(call)) return;
  int64_t shape[RANK];
  shape_of(call->attributes->layout, out, shape);
  expect_shape(call, 1, shape, RANK);
  const float *d_lse = d_lse_of(call, 2, out.batch, out.head, out.position);
  if (is_failed(call)) return;
  MlaRows rows = rows_of(call->attributes->layout, out);
  call->params = (MlaParams){
      .batch = (int)out.batch,
      .hq = (int)out.head,
      .sq = (int)out.position,
      .dv = (int)out.depth,
      .type = call->params.type,
      .out = rows_at(rows, call->inputs[0]),
      .d_out = rows_at(rows, call->inputs[1]),
      .d_lse = d_lse,
  };
}

static void describe_mask(Call *call) {
  const Attributes *a = call->attributes;
  const int unbounded = 1 << 29; /* far beyond every index, and still far from the end of an int */
  int64_t left = a->window_left < 0 || a->window_left > unbounded ? unbounded : a->window_left;
  int64_t right = a->window_right < 0 || a->window_right > unbounded ? unbounded : a->window_right;
  call->params.softmax_scale = a->softmax_scale;
  call->params.precision = a->precision;
  call->params.left = (int)left;
  call->params.right = a->is_causal ? 0 : (int)right;
  call->params.is_top_left = a->is_top_left;
}

/* The last inputs: d_out and lse, then delta, or what it is computed from. */
static void describe_backward(Call *call, int first) {
  MlaParams *p = &call->params;
  int64_t shape[RANK];
  shape_of(call->attributes->layout, (Dims){p->batch, p->sq, p->hq, p->dv}, shape);
  expect_shape(call, first, shape, RANK);
  expect_shape(call, first + 1, (int64_t[]){p->batch, p->hq, p->sq}, 3);
  p->d_out = rows_at(p->out, call->inputs[first]);
  p->lse = tf.TF_TensorData(call->inputs[first + 1]);
  if (call->attributes->op->kernel == MLA_BACKWARD) {
    expect_shape(call, first + 2, shape, RANK);
    p->out = rows_at(p->out, call->inputs[first + 2]);
    p->d_lse = d_lse_of(call, first + 3, p->batch, p->hq, p->sq);
  } else {
    expect_shape(call, first + 2, (int64_t[]){p->batch, p->hq, p->sq}, 3);
    p->delta = tf.TF_TensorData(call->inputs[first + 2]);
  }
}

void describe(Call *call) {
  const Op *op = call->attributes->op;
  int type = tf.TF_TensorType(call->inputs[0]);
  call->params.type = type == TF_HALF ? MLA_FLOAT16 : type == TF_BFLOAT16 ? MLA_BFLOAT16 : MLA_FLOAT32;
  if (op->kernel == MLA_DELTA) {
    describe_delta(call);
    return;
  }
  if (op->is_decode) describe_decode(call);
  else describe_attention(call);
  if (is_failed(call)) return;
  describe_mask(call);
  if (op->kernel != MLA_FORWARD) describe_backward(call, op->is_decode ? 5 : 6);
}
