/* The ops as TensorFlow knows them: definitions, attributes, shape functions, registration. The inputs and outputs of each
   are those of src/core/kernelInputs.ts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gpu.h"
#include "op.h"

#define ATTENTION_INPUTS "q: T", "k: T", "v: T", "k_rope: T", "q_lengths: int32", "kv_lengths: int32"
#define DECODE_INPUTS "q_latent: T", "q_rope: T", "c_kv: T", "k_rope: T", "kv_lengths: int32"
#define BACKWARD_INPUTS "d_out: T", "lse: float", "delta: float"
#define JOINED_BACKWARD_INPUTS "d_out: T", "lse: float", "out: T", "d_lse: float"

enum { ATTENTION, DELTA, ATTENTION_DQ, ATTENTION_DKV, ATTENTION_BACKWARD, DECODE, DECODE_DQ, DECODE_DKV, OP_COUNT };

static const Op ops[OP_COUNT] = {
    {"MLAAttention", MLA_FORWARD, 0, {ATTENTION_INPUTS}, {"out: T", "lse: float"}},
    {"MLADelta", MLA_DELTA, 0, {"out: T", "d_out: T", "d_lse: float"}, {"delta: float"}},
    {"MLAAttentionDq", MLA_DQ, 0, {ATTENTION_INPUTS, BACKWARD_INPUTS}, {"d_q: T"}},
    {"MLAAttentionDkv", MLA_DKV, 0, {ATTENTION_INPUTS, BACKWARD_INPUTS}, {"d_k: T", "d_v: T", "d_k_rope: T"}},
    {"MLAAttentionBackward",
     MLA_BACKWARD,
     0,
     {ATTENTION_INPUTS, JOINED_BACKWARD_INPUTS},
     {"d_q: T", "d_k: T", "d_v: T", "d_k_rope: T"}},
    {"MLADecode", MLA_FORWARD, 1, {DECODE_INPUTS}, {"out: T", "lse: float"}},
    {"MLADecodeDq", MLA_DQ, 1, {DECODE_INPUTS, BACKWARD_INPUTS}, {"d_q_latent: T", "d_q_rope: T"}},
    {"MLADecodeDkv", MLA_DKV, 1, {DECODE_INPUTS, BACKWARD_INPUTS}, {"d_c_kv: T", "d_k_rope: T"}},
};

/* The only place in C that knows what the layout names mean. */
static const Layout layouts[] = {{"bshd", 0, 1, 2}, {"bhsd", 0, 2, 1}, {"sbhd", 1, 0, 2}};

/* By MlaPrecision. */
static const char *const precisions[] = {"float32", "tf32", "float16", "bfloat16"};

/* ---- attributes */

static void read_text(TF_OpKernelConstruction *context, const char *name, char *text, size_t size, TF_Status *status) {
  memset(text, 0, size); /* TensorFlow writes no end */
  tf.TF_OpKernelConstruction_GetAttrString(context, name, text, size - 1, status);
}

static void read_attributes(TF_OpKernelConstruction *context, Attributes *a, TF_Status *status) {
  char text[16];
  read_text(context, "layout", text, sizeof text, status);
  for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
    if (!strcmp(text, layouts[i].name)) a->layout = &layouts[i];
  if (a->op->kernel == MLA_DELTA || tf.TF_GetCode(status)) return;
  read_text(context, "causal", text, sizeof text, status);
  a->is_causal = strcmp(text, "none") != 0;
  a->is_top_left = !strcmp(text, "top-left");
  if (!tf.TF_GetCode(status)) read_text(context, "precision", text, sizeof text, status);
  for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++)
    if (!strcmp(text, precisions[i])) a->precision = (MlaPrecision)i;
  if (!tf.TF_GetCode(status))
    tf.TF_OpKernelConstruction_GetAttrFloat(context, "softmax_scale", &a->softmax_scale, status);
  if (!tf.TF_GetCode(status))
    tf.TF_OpKernelConstruction_GetAttrInt64(context, "window_left", &a->window_left, status);
  if (!tf.TF_GetCode(status))
    tf.TF_OpKernelConstruction_GetAttrInt64(context, "window_right", &a->window_right, status);
}

static void *create(const Op *op, TF_OpKernelConstruction *context) {
  Attributes *attributes = calloc(1, sizeof *attributes);
  TF_Status *status = tf.TF_NewStatus();
  attributes->op = op;
  read_attributes(context, attributes, status);
  if (tf.TF_GetCode(status)) tf.TF_OpKernelConstruction_Failure(context, status);
  tf.TF_DeleteStatus(status);
  return attributes;
}

/* TensorFlow says at creation which kernel it makes by nothing but the function that it calls. */
#define CREATE(op) \
  static void *create_##op(TF_OpKernelConstruction *context) { return create(&ops[op], context); }
CREATE(ATTENTION)
CREATE(DELTA)
CREATE(ATTENTION_DQ)
CREATE(ATTENTION_DKV)
CREATE(ATTENTION_BACKWARD)
CREATE(DECODE)
CREATE(DECODE_DQ)
CREATE(DECODE_DKV)

void *create_of_list(TF_OpKernelConstruction *context) {
  ListAttributes *attributes = calloc(1, sizeof *attributes);
  TF_Status *status = tf.TF_NewStatus();
  tf.TF_OpKernelConstruction_GetAttrInt64(context, "N", &attributes->tensors, status);
  if (tf.TF_GetCode(status)) tf.TF_OpKernelConstruction_Failure(context, status);
  tf.TF_DeleteStatus(status);
  return attributes;
}

static void *create_nothing(TF_OpKernelConstruction *context) {
  (void)context;
  return NULL;
}

/* ---- shapes, for graphs; those that depend on the layout stay unknown, since the C API shows no attributes here */

static void set_output_like(TF_ShapeInferenceContext *context, int output, int input) {
  TF_ShapeHandle *shape = tf.TF_NewShapeHandle();
  TF_Status *status = tf.TF_NewStatus(); /* TensorFlow up to 2.9 refuses all indices but 0: the shape stays unknown */
  tf.TF_ShapeInferenceContextGetInput(context, input, shape, status);
  if (!tf.TF_GetCode(status)) tf.TF_ShapeInferenceContextSetOutput(context, output, shape, status);
  tf.TF_DeleteStatus(status);
  tf.TF_DeleteShapeHandle(shape);
}

/* out: the axes of q, with the columns of v. */
static void shape_attention(TF_ShapeInferenceContext *context, TF_Status *status) {
  tf.TF_ShapeInferenceContextSetUnknownShape(context, status);
  TF_ShapeHandle *q = tf.TF_NewShapeHandle(), *v = tf.TF_NewShapeHandle(), *out = tf.TF_NewShapeHandle();
  TF_Status *own = tf.TF_NewStatus();
  tf.TF_ShapeInferenceContextGetInput(context, 0, q, own);
  if (!tf.TF_GetCode(own)) tf.TF_ShapeInferenceContextGetInput(context, 2, v, own);
  if (!tf.TF_GetCode(own)) tf.TF_ShapeInferenceContextSubshape(context, q, 0, 3, q, own);
  if (!tf.TF_GetCode(own)) tf.TF_ShapeInferenceContextSubshape(context, v, 3, 4, v, own);
  if (!tf.TF_GetCode(own)) tf.TF_ShapeInferenceContextConcatenateShapes(context, q, v, out, own);
  if (!tf.TF_GetCode(own)) tf.TF_ShapeInferenceContextSetOutput(context, 0, out, own);
  tf.TF_DeleteStatus(own);
  tf.TF_DeleteShapeHandle(q);
  tf.TF_DeleteShapeHandle(v);
  tf.TF_DeleteShapeHandle(out);
}

void shape_unknown(TF_ShapeInferenceContext *context, TF_Status *status) {
  tf.TF_ShapeInferenceContextSetUnknownShape(context, status);
}

/* SHAPES(name, the inputs that the outputs are like) */
#define SHAPES(name, ...)                                                                \
  void name(TF_ShapeInferenceContext *context, TF_Status *status) {                      \
    static const int inputs[] = {__VA_ARGS__};                                           \
    tf.TF_ShapeInferenceContextSetUnknownShape(context, status);                         \
    for (int i = 0; i < (int)(sizeof inputs / sizeof *inputs); i++) set_output_like(context, i, inputs[i]); \
  }
SHAPES(shape_like_first, 0)
SHAPES(shape_like_second_and_third, 1, 2)
static SHAPES(shape_attention_dkv, 1, 2, 3)
static SHAPES(shape_attention_backward, 0, 1, 2, 3)
static SHAPES(shape_decode_dq, 0, 1)
static SHAPES(shape_decode_dkv, 2, 3)

/* ---- registration */

static const struct {
  Create *create;
  ShapeFunction *shape;
} functions[OP_COUNT] = {
    {create_ATTENTION, shape_attention},
    {create_DELTA, shape_unknown},
    {create_ATTENTION_DQ, shape_like_first},
    {create_ATTENTION_DKV, shape_attention_dkv},
    {create_ATTENTION_BACKWARD, shape_attention_backward},
    {create_DECODE, shape_like_first},
    {create_DECODE_DQ, shape_decode_dq},
    {create_DECODE_DKV, shape_decode_dkv},
};

static char failure[256];

static const char *keep_failure(TF_Status *status) {
  if (tf.TF_GetCode(status)) snprintf(failure, sizeof failure, "%s", tf.TF_Message(status));
  int is_failed = tf.TF_GetCode(status) != TF_OK;
  tf.TF_DeleteStatus(status);
  return is_failed ? failure : NULL;
}

/* `host_input`, if any, stays in the host's memory where the op runs on a GPU. */
static const char *register_kernel(const char *device, const char *op, Create *create, Compute *compute,
                                   const char *host_input) {
  TF_KernelBuilder *builder = tf.TF_NewKernelBuilder(op, device, create, compute, free);
  if (host_input) tf.TF_KernelBuilder_HostMemory(builder, host_input);
  TF_Status *status = tf.TF_NewStatus();
  tf.TF_RegisterKernelBuilder(op, builder, status);
  return keep_failure(status);
}

const char *register_definition(TF_OpDefinitionBuilder *builder, ShapeFunction *shape) {
  tf.TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, shape);
  TF_Status *status = tf.TF_NewStatus();
  tf.TF_RegisterOpDefinition(builder, status);
  return keep_failure(status);
}

const char *register_kernels(const char *op, Create *create, Compute *on_cpu, Compute *on_gpu,
                             const char *host_input) {
  const char *message = on_cpu ? register_kernel("CPU", op, create, on_cpu, NULL) : NULL;
  return message || gpu_open() ? message : register_kernel("GPU", op, create, on_gpu, host_input);
}

static const char *register_op(int index) {
  const Op *op = &ops[index];
  TF_OpDefinitionBuilder *builder = tf.TF_NewOpDefinitionBuilder(op->name);
  for (int i = 0; op->inputs[i]; i++) tf.TF_OpDefinitionBuilderAddInput(builder, op->inputs[i]);
  for (int i = 0; op->outputs[i]; i++) tf.TF_OpDefinitionBuilderAddOutput(builder, op->outputs[i]);
  tf.TF_OpDefinitionBuilderAddAttr(builder, "T: {float, half, bfloat16}");
  tf.TF_OpDefinitionBuilderAddAttr(builder, "layout: {'bshd', 'bhsd', 'sbhd'} = 'bshd'");
  if (op->kernel != MLA_DELTA) {
    tf.TF_OpDefinitionBuilderAddAttr(
        builder, "precision: {'float32', 'tf32', 'float16', 'bfloat16'} = 'float32'"); /* CPUs know float32 alone */
    tf.TF_OpDefinitionBuilderAddAttr(builder, "softmax_scale: float");
    tf.TF_OpDefinitionBuilderAddAttr(builder, "causal: {'none', 'bottom-right', 'top-left'} = 'none'");
    tf.TF_OpDefinitionBuilderAddAttr(builder, "window_left: int = -1");
    tf.TF_OpDefinitionBuilderAddAttr(builder, "window_right: int = -1");
  }
  const char *message = register_definition(builder, functions[index].shape);
  if (message) return message;
  return register_kernels(op->name, functions[index].create, compute_on_cpu, compute_on_gpu, NULL);
}

static const char *register_cache_append(void) {
  TF_OpDefinitionBuilder *builder = tf.TF_NewOpDefinitionBuilder("MLACacheAppend");
  static const char *const inputs[] = {"c_kv: T", "k_rope: T", "new_c_kv: T", "new_k_rope: T", "lengths: int32"};
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) tf.TF_OpDefinitionBuilderAddInput(builder, inputs[i]);
  tf.TF_OpDefinitionBuilderAddAttr(builder, "T: {float, half, bfloat16}");
  tf.TF_OpDefinitionBuilderSetIsStateful(builder, 1);
  const char *message = register_definition(builder, shape_unknown);
  if (message) return message;
  return register_kernels("MLACacheAppend", create_nothing, append_on_cpu, append_on_gpu, "lengths");
}

/* A second copy of this library in the process: TensorFlow ends the process over an op that is registered twice. */
static int are_registered(void) {
  TF_Graph *graph = tf.TF_NewGraph();
  TF_Buffer *buffer = tf.TF_NewBuffer();
  TF_Status *status = tf.TF_NewStatus();
  tf.TF_GraphGetOpDef(graph, ops[0].name, buffer, status);
  int is_there = tf.TF_GetCode(status) == TF_OK;
  tf.TF_DeleteStatus(status);
  tf.TF_DeleteBuffer(buffer);
  tf.TF_DeleteGraph(graph);
  return is_there;
}

const char *register_ops(void) {
  if (are_registered()) return NULL;
  const char *message = register_cache_append();
  for (int i = 0; i < OP_COUNT && !message; i++) message = register_op(i);
  if (!message) message = register_row_ops();
  if (!message) message = register_adam();
  return message ? message : register_linear();
}
