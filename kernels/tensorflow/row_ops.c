/* The row ops: RMSNorm, rotary embedding, SwiGLU and cross-entropy with their gradients, an embedding's gradient: each one
   op where TensorFlow's own would be a dozen. Inputs and outputs are those of src/core/rowKernels.ts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/mla_cpu.h"
#include "gpu.h"
#include "op.h"

enum { ROW_INPUTS = 4, ROW_OUTPUTS = 2, ROW_ATTRIBUTES = 2, ROW_OP_COUNT = 9 };

typedef struct {
  const char *name, *inputs[ROW_INPUTS + 1], *outputs[ROW_OUTPUTS + 1], *attributes[ROW_ATTRIBUTES + 1];
} RowOp;

#define EPS "eps: float"
#define PAIRS "pairs: {'neighbours', 'halves'} = 'neighbours'"

static const RowOp row_ops[ROW_OP_COUNT] = {
    [MLA_NORM] = {"MLARMSNorm", {"x", "gain", "addend"}, {"y", "sum"}, {EPS}},
    [MLA_NORM_BACKWARD] = {"MLARMSNormBackward", {"d_y", "sum", "gain", "d_sum"}, {"d_x", "d_gain"}, {EPS}},
    [MLA_ROTARY] = {"MLARotary", {"nope", "rope", "cos", "sin"}, {"joined"}, {PAIRS, "heads: int >= 0"}},
    [MLA_ROTARY_BACKWARD] = {"MLARotaryBackward", {"d_joined", "cos", "sin"}, {"d_nope", "d_rope"}, {PAIRS}},
    [MLA_SWIGLU] = {"MLASwiGLU", {"gate", "up"}, {"out"}, {0}},
    [MLA_SWIGLU_BACKWARD] = {"MLASwiGLUBackward", {"d_out", "gate", "up"}, {"d_gate", "d_up"}, {0}},
    [MLA_CROSS_ENTROPY] = {"MLACrossEntropy", {"logits", "labels"}, {"loss"}, {0}},
    [MLA_CROSS_ENTROPY_BACKWARD] = {"MLACrossEntropyBackward", {"d_loss", "logits", "labels"}, {"d_logits"}, {0}},
    [MLA_EMBEDDING_BACKWARD] = {"MLAEmbeddingBackward", {"d_rows", "ids"}, {"d_table"}, {"table_rows: int >= 0"}},
};

typedef struct {
  MlaRowKernel kernel;
  float eps;
  int is_interleaved;
  int64_t table_rows;
  int64_t heads; /* 0: `joined` has no axis of heads, of which there is one */
} RowAttributes;

/* ---- a call */

typedef struct {
  TF_OpKernelContext *context;
  const RowAttributes *attributes;
  TF_Status *status;
  TF_Tensor *inputs[ROW_INPUTS], *outputs[ROW_OUTPUTS];
  MlaRowCall row;
} RowCall;

static int is_failed(const RowCall *call) { return tf.TF_GetCode(call->status) != TF_OK; }

static void fail(RowCall *call, const char *what) {
  char message[160];
  if (is_failed(call)) return;
  snprintf(message, sizeof message, "%s: %s", row_ops[call->attributes->kernel].name, what);
  tf.TF_SetStatus(call->status, TF_INVALID_ARGUMENT, message);
}

static void *data(const TF_Tensor *tensor) { return tensor ? tf.TF_TensorData(tensor) : NULL; }
static int64_t elements(const TF_Tensor *tensor) { return tf.TF_TensorElementCount(tensor); }

static int64_t last_dim(const TF_Tensor *tensor) {
  int rank = tf.TF_NumDims(tensor);
  return rank ? tf.TF_Dim(tensor, rank - 1) : 1;
}

static float *allocate(RowCall *call, int output, const int64_t *shape, int rank) {
  size_t bytes = sizeof(float);
  for (int i = 0; i < rank; i++) bytes *= (size_t)shape[i];
  if (!is_failed(call))
    call->outputs[output] = tf.TF_AllocateOutput(call->context, output, TF_FLOAT, shape, rank, bytes, call->status);
  return data(call->outputs[output]);
}

static float *allocate_like(RowCall *call, int output, int input) {
  enum { MOST_RANK = 8 };
  const TF_Tensor *tensor = call->inputs[input];
  int64_t shape[MOST_RANK];
  int rank = tf.TF_NumDims(tensor);
  if (rank > MOST_RANK) fail(call, "the rank must be 8 at most");
  for (int i = 0; i < rank && i < MOST_RANK; i++) shape[i] = tf.TF_Dim(tensor, i);
  return allocate(call, output, shape, rank);
}

/* `addend` and `d_sum` may be absent, which is to have no elements; `sum` then has none either. */
static void norm(RowCall *call, int is_backward) {
  TF_Tensor **in = call->inputs, *x = in[is_backward], *gain = in[is_backward + 1], *optional = in[is_backward + 2];
  MlaNorm *p = &call->row.arguments.norm;
  p->columns = (int)elements(gain);
  p->eps = call->attributes->eps;
  if (!tf.TF_NumDims(x) || last_dim(x) != p->columns) fail(call, "gain must be [d] for x [..., d]");
  if (is_backward && elements(in[0]) != elements(x)) fail(call, "d_y must be shaped like sum");
  if (elements(optional) && elements(optional) != elements(x))
    fail(call, is_backward ? "d_sum must be shaped like sum or absent" : "addend must be shaped like x or absent");
  if (is_failed(call)) return;
  p->rows = p->columns ? elements(x) / p->columns : 0;
  p->parts = (p->rows + MLA_NORM_PART_ROWS - 1) / MLA_NORM_PART_ROWS;
  p->sum = data(x), p->gain = data(gain);
  if (!is_backward) {
    p->x = data(x), p->y = allocate_like(call, 0, 0);
    float *sum = allocate_like(call, 1, 2);
    if (elements(optional)) p->addend = data(optional), p->sum = sum;
    return;
  }
  p->d_y = data(in[0]);
  if (elements(optional)) p->d_sum = data(optional);
  p->d_x = allocate_like(call, 0, 1);
  p->d_gain = allocate_like(call, 1, 2);
}

/* The tables are [1 or b, s, 1, dr]: of positions that all batch entries share, or of each entry. */
static void read_tables(RowCall *call, int cos, int64_t tokens, int64_t heads, int64_t columns) {
  MlaRotary *p = &call->row.arguments.rotary;
  const TF_Tensor *table = call->inputs[cos];
  if (tf.TF_NumDims(table) != 4 || elements(table) != elements(call->inputs[cos + 1]))
    fail(call, "cos and sin must be [1 or b, s, 1, dr]");
  if (is_failed(call)) return;
  p->dr = (int)last_dim(table);
  p->positions = p->dr ? elements(table) / p->dr : 0;
  p->heads = (int)heads, p->tokens = tokens;
  p->dn = (int)(columns - p->dr);
  p->cos = data(table), p->sin = data(call->inputs[cos + 1]);
  p->is_interleaved = call->attributes->is_interleaved;
  if (p->dn < 0 || p->dr % 2 || (tokens && (!p->positions || tokens % p->positions)))
    fail(call, "cos and sin must be [1 or b, s, 1, dr] with an even dr, for b·s tokens");
}

static void rotary(RowCall *call) {
  TF_Tensor **in = call->inputs;
  MlaRotary *p = &call->row.arguments.rotary;
  int64_t given = call->attributes->heads, heads = given ? given : 1;
  if (tf.TF_NumDims(in[1]) != 2) fail(call, "rope must be [b·s, heads·dr]");
  if (is_failed(call)) return;
  int64_t tokens = tf.TF_Dim(in[1], 0), numbers = elements(in[0]) + elements(in[1]);
  int64_t columns = tokens ? numbers / (tokens * heads) : last_dim(in[2]);
  read_tables(call, 2, tokens, heads, columns);
  if (!is_failed(call) && (elements(in[1]) != tokens * heads * p->dr || numbers != tokens * heads * columns))
    fail(call, "nope must be [b·s, heads·dn] or without elements, rope [b·s, heads·dr]");
  if (is_failed(call)) return;
  p->nope = data(in[0]), p->rope = data(in[1]);
  int64_t s = tf.TF_Dim(in[2], 1), b = s ? tokens / s : 0;
  int64_t with_heads[] = {b, s, heads, columns}, without[] = {b, s, columns};
  p->joined = given ? allocate(call, 0, with_heads, 4) : allocate(call, 0, without, 3);
}

static void rotary_backward(RowCall *call) {
  TF_Tensor **in = call->inputs;
  MlaRotary *p = &call->row.arguments.rotary;
  int rank = tf.TF_NumDims(in[0]);
  if (rank != 3 && rank != 4) fail(call, "d_joined must be [b, s, heads, dn + dr] or [b, s, dn + dr]");
  if (is_failed(call)) return;
  int64_t tokens = tf.TF_Dim(in[0], 0) * tf.TF_Dim(in[0], 1), heads = rank == 4 ? tf.TF_Dim(in[0], 2) : 1;
  read_tables(call, 1, tokens, heads, last_dim(in[0]));
  if (is_failed(call)) return;
  p->joined = data(in[0]);
  p->nope = allocate(call, 0, (int64_t[]){tokens, heads * p->dn}, 2);
  p->rope = allocate(call, 1, (int64_t[]){tokens, heads * p->dr}, 2);
}

static void swiglu(RowCall *call, int is_backward) {
  TF_Tensor **in = call->inputs, *gate = in[is_backward], *up = in[is_backward + 1];
  MlaSwiglu *p = &call->row.arguments.swiglu;
  p->count = elements(gate);
  if (elements(up) != p->count || elements(in[0]) != p->count) fail(call, "all inputs must be of one shape");
  if (is_failed(call)) return;
  p->gate = data(gate), p->up = data(up);
  if (!is_backward) {
    p->out = allocate_like(call, 0, 0);
    return;
  }
  p->d_out = data(in[0]);
  p->d_gate = allocate_like(call, 0, 1);
  p->d_up = allocate_like(call, 1, 2);
}

static void cross_entropy(RowCall *call, int is_backward) {
  TF_Tensor **in = call->inputs, *logits = in[is_backward], *labels = in[is_backward + 1];
  MlaCrossEntropy *p = &call->row.arguments.cross_entropy;
  p->rows = elements(labels);
  p->columns = (int)last_dim(logits);
  if (!p->rows || !p->columns || elements(logits) != p->rows * p->columns)
    fail(call, "logits must be [..., columns], labels [...]");
  if (is_backward && elements(in[0]) != 1) fail(call, "d_loss must be one number");
  if (is_failed(call)) return;
  p->logits = data(logits), p->labels = data(labels);
  if (!is_backward) {
    p->loss = allocate(call, 0, NULL, 0);
    return;
  }
  p->d_loss = data(in[0]);
  p->d_logits = allocate_like(call, 0, 1);
}

static void embedding_backward(RowCall *call) {
  TF_Tensor *d_rows = call->inputs[0], *ids = call->inputs[1];
  MlaEmbedding *p = &call->row.arguments.embedding;
  int64_t table_rows = call->attributes->table_rows;
  p->tokens = elements(ids);
  if (tf.TF_NumDims(d_rows) != 2 || tf.TF_Dim(d_rows, 0) != p->tokens) fail(call, "d_rows must be [n, d] for n ids");
  if (is_failed(call)) return;
  p->table_rows = (int)table_rows, p->columns = (int)tf.TF_Dim(d_rows, 1);
  p->ids = data(ids), p->d_rows = data(d_rows);
  p->d_table = allocate(call, 0, (int64_t[]){table_rows, p->columns}, 2);
}

/* Reads the call and allocates its outputs. */
static void describe(RowCall *call) {
  call->row.kernel = call->attributes->kernel;
  switch (call->row.kernel) {
    case MLA_NORM: norm(call, 0); break;
    case MLA_NORM_BACKWARD: norm(call, 1); break;
    case MLA_ROTARY: rotary(call); break;
    case MLA_ROTARY_BACKWARD: rotary_backward(call); break;
    case MLA_SWIGLU: swiglu(call, 0); break;
    case MLA_SWIGLU_BACKWARD: swiglu(call, 1); break;
    case MLA_CROSS_ENTROPY: cross_entropy(call, 0); break;
    case MLA_CROSS_ENTROPY_BACKWARD: cross_entropy(call, 1); break;
    case MLA_EMBEDDING_BACKWARD: embedding_backward(call); break;
    default: break; /* Adam is no row op */
  }
}

typedef void Run(RowCall *);

static void run_on_cpu(RowCall *call) {
  if (!mla_cpu_run_rows(&call->row))
    tf.TF_SetStatus(call->status, TF_RESOURCE_EXHAUSTED, "tfjs-mla: no memory to compute in");
}

static void run_on_gpu(RowCall *call) { gpu_run(call->context, gpu_plan_rows, &call->row, call->status); }

static int has_outputs(const RowCall *call) {
  int64_t count = 0;
  for (int i = 0; i < ROW_OUTPUTS; i++)
    if (call->outputs[i]) count += elements(call->outputs[i]);
  return count > 0;
}

static void compute(const RowAttributes *attributes, TF_OpKernelContext *context, Run *run) {
  RowCall call = {.context = context, .attributes = attributes, .status = tf.TF_NewStatus()};
  const RowOp *op = &row_ops[attributes->kernel];
  for (int i = 0; op->inputs[i] && !is_failed(&call); i++) tf.TF_GetInput(context, i, &call.inputs[i], call.status);
  if (!is_failed(&call)) describe(&call);
  if (!is_failed(&call) && has_outputs(&call)) run(&call);
  if (is_failed(&call)) tf.TF_OpKernelContext_Failure(context, call.status);
  for (int i = 0; i < ROW_INPUTS; i++)
    if (call.inputs[i]) tf.TF_DeleteTensor(call.inputs[i]);
  for (int i = 0; i < ROW_OUTPUTS; i++)
    if (call.outputs[i]) tf.TF_DeleteTensor(call.outputs[i]);
  tf.TF_DeleteStatus(call.status);
}

static void rows_on_cpu(void *attributes, TF_OpKernelContext *context) { compute(attributes, context, run_on_cpu); }
static void rows_on_gpu(void *attributes, TF_OpKernelContext *context) { compute(attributes, context, run_on_gpu); }

/* ---- registration */

static void read_attributes(TF_OpKernelConstruction *context, RowAttributes *a, TF_Status *status) {
  char pairs[16] = {0};
  switch (a->kernel) {
    case MLA_NORM:
    case MLA_NORM_BACKWARD: tf.TF_OpKernelConstruction_GetAttrFloat(context, "eps", &a->eps, status); break;
    case MLA_ROTARY: tf.TF_OpKernelConstruction_GetAttrInt64(context, "heads", &a->heads, status); /* fall through */
    case MLA_ROTARY_BACKWARD:
      if (tf.TF_GetCode(status)) return;
      tf.TF_OpKernelConstruction_GetAttrString(context, "pairs", pairs, sizeof pairs - 1, status);
      a->is_interleaved = !strcmp(pairs, "neighbours");
      break;
    case MLA_EMBEDDING_BACKWARD:
      tf.TF_OpKernelConstruction_GetAttrInt64(context, "table_rows", &a->table_rows, status);
      break;
    default: break;
  }
}

static void *create(MlaRowKernel kernel, TF_OpKernelConstruction *context) {
  RowAttributes *attributes = calloc(1, sizeof *attributes);
  TF_Status *status = tf.TF_NewStatus();
  attributes->kernel = kernel;
  read_attributes(context, attributes, status);
  if (tf.TF_GetCode(status)) tf.TF_OpKernelConstruction_Failure(context, status);
  tf.TF_DeleteStatus(status);
  return attributes;
}

#define CREATE(kernel) \
  static void *create_##kernel(TF_OpKernelConstruction *context) { return create(kernel, context); }
CREATE(MLA_NORM)
CREATE(MLA_NORM_BACKWARD)
CREATE(MLA_ROTARY)
CREATE(MLA_ROTARY_BACKWARD)
CREATE(MLA_SWIGLU)
CREATE(MLA_SWIGLU_BACKWARD)
CREATE(MLA_CROSS_ENTROPY)
CREATE(MLA_CROSS_ENTROPY_BACKWARD)
CREATE(MLA_EMBEDDING_BACKWARD)

static const struct {
  Create *create;
  ShapeFunction *shape;
} functions[ROW_OP_COUNT] = {
    [MLA_NORM] = {create_MLA_NORM, shape_like_first},
    [MLA_NORM_BACKWARD] = {create_MLA_NORM_BACKWARD, shape_like_second_and_third},
    [MLA_ROTARY] = {create_MLA_ROTARY, shape_unknown},
    [MLA_ROTARY_BACKWARD] = {create_MLA_ROTARY_BACKWARD, shape_unknown},
    [MLA_SWIGLU] = {create_MLA_SWIGLU, shape_like_first},
    [MLA_SWIGLU_BACKWARD] = {create_MLA_SWIGLU_BACKWARD, shape_like_second_and_third},
    [MLA_CROSS_ENTROPY] = {create_MLA_CROSS_ENTROPY, shape_unknown},
    [MLA_CROSS_ENTROPY_BACKWARD] = {create_MLA_CROSS_ENTROPY_BACKWARD, shape_unknown},
    [MLA_EMBEDDING_BACKWARD] = {create_MLA_EMBEDDING_BACKWARD, shape_unknown},
};

const char *register_row_ops(void) {
  const char *message = NULL;
  for (int i = 0; i < ROW_OP_COUNT && !message; i++) {
    const RowOp *op = &row_ops[i];
    TF_OpDefinitionBuilder *builder = tf.TF_NewOpDefinitionBuilder(op->name);
    char tensor[32];
    for (int n = 0; op->inputs[n]; n++) {
      int is_whole = !strcmp(op->inputs[n], "labels") || !strcmp(op->inputs[n], "ids");
      const char *type = is_whole ? "int32" : "float";
      snprintf(tensor, sizeof tensor, "%s: %s", op->inputs[n], type);
      tf.TF_OpDefinitionBuilderAddInput(builder, tensor);
    }
    for (int n = 0; op->outputs[n]; n++) {
      snprintf(tensor, sizeof tensor, "%s: float", op->outputs[n]);
      tf.TF_OpDefinitionBuilderAddOutput(builder, tensor);
    }
    for (int n = 0; op->attributes[n]; n++) tf.TF_OpDefinitionBuilderAddAttr(builder, op->attributes[n]);
    message = register_definition(builder, functions[i].shape);
    if (!message) message = register_kernels(op->name, functions[i].create, rows_on_cpu, rows_on_gpu, NULL);
  }
  return message;
}
