/* MLALinear: several linear maps of one input, and MLALinearBackward: all their gradients, each one op where TensorFlow would
   take a MatMul a product, an Add a sum and a Reshape a result. For GPUs alone: there the time of a short op is that of its
   launch. Inputs and outputs are those of src/core/rowKernels.ts. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "cublas.h"
#include "gpu.h"
#include "op.h"

enum { MOST_MAPS = 8, MOST_RANK = 8 };

typedef struct {
  TF_OpKernelContext *context;
  TF_Status *status;
  int maps, rows, columns; /* of x, as a matrix */
  TF_Tensor *x, *weights[MOST_MAPS];
  TF_Tensor *shapes, *d_ys[MOST_MAPS]; /* forward has the first, backward the others */
  TF_Tensor *outputs[1 + MOST_MAPS];
  int product_count;
  Product products[2 * MOST_MAPS];
} Call;

static int is_failed(const Call *call) { return tf.TF_GetCode(call->status) != TF_OK; }
static int64_t elements(const TF_Tensor *tensor) { return tf.TF_TensorElementCount(tensor); }
static int rows_of(const TF_Tensor *weight) { return (int)tf.TF_Dim(weight, 0); }

static void fail(Call *call, const char *what) {
  if (!is_failed(call)) tf.TF_SetStatus(call->status, TF_INVALID_ARGUMENT, what);
}

static float *allocate(Call *call, int output, const int64_t *shape, int rank) {
  size_t bytes = sizeof(float);
  for (int i = 0; i < rank; i++) bytes *= (size_t)shape[i];
  if (is_failed(call)) return NULL;
  TF_Tensor *made = tf.TF_AllocateOutput(call->context, output, TF_FLOAT, shape, rank, bytes, call->status);
  call->outputs[output] = made;
  return made ? tf.TF_TensorData(made) : NULL;
}

static float *allocate_like(Call *call, int output, const TF_Tensor *tensor) {
  int64_t shape[MOST_RANK];
  int rank = tf.TF_NumDims(tensor);
  if (rank > MOST_RANK) fail(call, "MLALinear: the rank must be 8 at most");
  for (int i = 0; i < rank && i < MOST_RANK; i++) shape[i] = tf.TF_Dim(tensor, i);
  return allocate(call, output, shape, rank);
}

/* As the next of the shapes says, each behind its rank; [rows, out] where that is 0, or there are none. */
static float *allocate_result(Call *call, int output, int out, int64_t *at) {
  int64_t dims[MOST_RANK] = {call->rows, out}, count = 1, given = elements(call->shapes);
  const int32_t *shapes = given ? tf.TF_TensorData(call->shapes) : NULL;
  int64_t rank = *at < given ? shapes[(*at)++] : 0;
  if (rank == 0) return allocate(call, output, dims, 2);
  if (rank < 0 || rank > MOST_RANK || *at + rank > given) fail(call, "MLALinear: shapes must stand behind their ranks, 0 to 8");
  for (int i = 0; i < rank && !is_failed(call); i++) count *= dims[i] = shapes[(*at)++];
  if (count != (int64_t)call->rows * out) fail(call, "MLALinear: a shape must have as many elements as rows times out");
  return allocate(call, output, dims, (int)rank);
}

static TF_Tensor *input(Call *call, int index) {
  TF_Tensor *tensor = NULL;
  if (!is_failed(call)) tf.TF_GetInput(call->context, index, &tensor, call->status);
  return tensor;
}

static void read_factors(Call *call) {
  if (call->maps > MOST_MAPS) fail(call, "MLALinear: of one input there must be 8 maps at most");
  call->x = input(call, 0);
  for (int i = 0; i < call->maps && !is_failed(call); i++) call->weights[i] = input(call, 1 + i);
  if (is_failed(call)) return;
  int64_t columns = tf.TF_NumDims(call->weights[0]) == 2 ? tf.TF_Dim(call->weights[0], 1) : 0;
  int is_right = columns > 0 && elements(call->x) % columns == 0 && elements(call->x) / columns <= INT_MAX;
  for (int i = 0; i < call->maps; i++)
    is_right = is_right && tf.TF_NumDims(call->weights[i]) == 2 && tf.TF_Dim(call->weights[i], 1) == columns;
  if (!is_right) fail(call, "MLALinear: weights must be [out, in] for x [..., in]");
  if (is_failed(call)) return;
  call->columns = (int)columns, call->rows = (int)(elements(call->x) / columns);
}

static void describe(Call *call) {
  int64_t at = 0;
  call->shapes = input(call, 1 + call->maps);
  for (int i = 0; i < call->maps && !is_failed(call); i++) {
    int out = rows_of(call->weights[i]);
    call->products[call->product_count++] = (Product){
        .a = tf.TF_TensorData(call->x),
        .b = tf.TF_TensorData(call->weights[i]),
        .c = allocate_result(call, i, out, &at),
        .rows = call->rows,
        .columns = out,
        .depth = call->columns,
        .is_b_transposed = 1,
    };
  }
}

static void describe_backward(Call *call) {
  float *d_x = allocate_like(call, 0, call->x);
  for (int i = 0; i < call->maps && !is_failed(call); i++) {
    int out = rows_of(call->weights[i]);
    call->d_ys[i] = input(call, 1 + call->maps + i);
    if (is_failed(call)) return;
    if (elements(call->d_ys[i]) != (int64_t)call->rows * out) fail(call, "MLALinearBackward: d_y must be [..., out]");
    const float *d_y = tf.TF_TensorData(call->d_ys[i]);
    call->products[call->product_count++] = (Product){
        .a = d_y,
        .b = tf.TF_TensorData(call->weights[i]),
        .c = d_x,
        .rows = call->rows,
        .columns = call->columns,
        .depth = out,
        .adds = i > 0,
    };
    call->products[call->product_count++] = (Product){
        .a = d_y,
        .b = tf.TF_TensorData(call->x),
        .c = allocate_like(call, 1 + i, call->weights[i]),
        .rows = out,
        .columns = call->columns,
        .depth = call->rows,
        .is_a_transposed = 1,
    };
  }
}

static void multiply(Call *call) {
  MlaStream stream;
  const char *error = gpu_begin(call->context, &stream);
  if (!error) error = cublas_multiply(call->products, call->product_count, stream);
  if (!error) error = gpu_end(stream);
  if (error) tf.TF_SetStatus(call->status, TF_INTERNAL, error);
}

static void compute(const ListAttributes *attributes, TF_OpKernelContext *context, void (*describe_call)(Call *)) {
  Call call = {.context = context, .status = tf.TF_NewStatus(), .maps = (int)attributes->tensors};
  read_factors(&call);
  if (!is_failed(&call)) describe_call(&call);
  if (!is_failed(&call)) multiply(&call);
  if (is_failed(&call)) tf.TF_OpKernelContext_Failure(context, call.status);
  if (call.x) tf.TF_DeleteTensor(call.x);
  if (call.shapes) tf.TF_DeleteTensor(call.shapes);
  for (int i = 0; i < MOST_MAPS; i++) {
    if (call.weights[i]) tf.TF_DeleteTensor(call.weights[i]);
    if (call.d_ys[i]) tf.TF_DeleteTensor(call.d_ys[i]);
  }
  for (int i = 0; i < 1 + MOST_MAPS; i++)
    if (call.outputs[i]) tf.TF_DeleteTensor(call.outputs[i]);
  tf.TF_DeleteStatus(call.status);
}

static void linear(void *attributes, TF_OpKernelContext *context) { compute(attributes, context, describe); }
static void linear_backward(void *attributes, TF_OpKernelContext *context) {
  compute(attributes, context, describe_backward);
}

static const char *register_linear_op(const char *name, const char *last_input, const char *const *outputs, Compute *on_gpu,
                                      const char *host_input) {
  TF_OpDefinitionBuilder *builder = tf.TF_NewOpDefinitionBuilder(name);
  tf.TF_OpDefinitionBuilderAddInput(builder, "x: float");
  tf.TF_OpDefinitionBuilderAddInput(builder, "weights: N * float");
  tf.TF_OpDefinitionBuilderAddInput(builder, last_input);
  for (int i = 0; outputs[i]; i++) tf.TF_OpDefinitionBuilderAddOutput(builder, outputs[i]);
  tf.TF_OpDefinitionBuilderAddAttr(builder, "N: int >= 1");
  const char *message = register_definition(builder, shape_unknown);
  return message ? message : register_kernels(name, create_of_list, NULL, on_gpu, host_input);
}

const char *register_linear(void) {
  static const char *const forward[] = {"ys: N * float", NULL}, *const backward[] = {"d_x: float", "d_weights: N * float", NULL};
  const char *message = register_linear_op("MLALinear", "shapes: int32", forward, linear, "shapes");
  if (message) return message;
  return register_linear_op("MLALinearBackward", "d_ys: N * float", backward, linear_backward, NULL);
}
