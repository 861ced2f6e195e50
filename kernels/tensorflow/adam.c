/* MLAAdam: one update of all variables of a model, where each would take a dozen ops. */
#include <stdlib.h>
#include <string.h>

#include "cpu/mla_cpu.h"
#include "gpu.h"
#include "op.h"

/* Behind the lists of values and gradients; after the list of new values. */
enum { FIRST_MOMENT, SECOND_MOMENT, NUMBERS, LAST_INPUTS };
enum { NEW_FIRST_MOMENT, NEW_SECOND_MOMENT, NORM, LAST_OUTPUTS };

/* By src/core/rowKernels.ts. */
enum { BETA1, ONE_LESS_BETA1, BETA2, ONE_LESS_BETA2, SMALLEST, RATE, CLIP_NORM, NUMBER_COUNT };

typedef struct {
  TF_OpKernelContext *context;
  TF_Status *status;
  int tensors, input_count, output_count;
  TF_Tensor **inputs, **outputs;
  MlaAdamPiece *pieces;
  MlaRowCall row;
} Call;

static int is_failed(const Call *call) { return tf.TF_GetCode(call->status) != TF_OK; }
static TF_Tensor *last_input(const Call *call, int which) { return call->inputs[2 * call->tensors + which]; }

static float *allocate(Call *call, int output, const int64_t *shape, int rank, int64_t elements) {
  size_t bytes = sizeof(float) * (size_t)elements;
  if (is_failed(call)) return NULL;
  TF_Tensor *made = tf.TF_AllocateOutput(call->context, output, TF_FLOAT, shape, rank, bytes, call->status);
  call->outputs[output] = made;
  return made ? tf.TF_TensorData(made) : NULL;
}

static float *allocate_like(Call *call, int output, const TF_Tensor *tensor) {
  enum { MOST_RANK = 8 };
  int64_t shape[MOST_RANK];
  int rank = tf.TF_NumDims(tensor);
  for (int i = 0; i < rank && i < MOST_RANK; i++) shape[i] = tf.TF_Dim(tensor, i);
  return allocate(call, output, shape, rank < MOST_RANK ? rank : MOST_RANK, tf.TF_TensorElementCount(tensor));
}

/* Returns how many pieces there are; writes them if there is room. */
static int64_t cut(Call *call, MlaAdamPiece *pieces) {
  int64_t count = 0, first = 0;
  for (int t = 0; t < call->tensors; t++) {
    int64_t elements = tf.TF_TensorElementCount(call->inputs[t]);
    for (int64_t at = 0; at < elements; at += MLA_ADAM_PIECE, count++) {
      if (!pieces) continue;
      pieces[count] = (MlaAdamPiece){
          .value = (const float *)tf.TF_TensorData(call->inputs[t]) + at,
          .gradient = (const float *)tf.TF_TensorData(call->inputs[call->tensors + t]) + at,
          .new_value = (float *)tf.TF_TensorData(call->outputs[t]) + at,
          .first = first + at,
          .count = (int)(elements - at < MLA_ADAM_PIECE ? elements - at : MLA_ADAM_PIECE),
      };
    }
    first += elements;
  }
  return count;
}

static void expect_shapes(Call *call) {
  int64_t elements = 0;
  int is_same = 1;
  for (int t = 0; t < call->tensors; t++) {
    int64_t own = tf.TF_TensorElementCount(call->inputs[t]);
    is_same = is_same && tf.TF_TensorElementCount(call->inputs[call->tensors + t]) == own;
    elements += own;
  }
  for (int i = FIRST_MOMENT; i <= SECOND_MOMENT; i++)
    is_same = is_same && tf.TF_TensorElementCount(last_input(call, i)) == elements;
  if (!is_same || tf.TF_TensorElementCount(last_input(call, NUMBERS)) != NUMBER_COUNT)
    tf.TF_SetStatus(call->status, TF_INVALID_ARGUMENT,
                    "MLAAdam: gradients must be shaped like the values, and moments hold as many numbers as all of them");
}

static void describe(Call *call) {
  call->row.kernel = MLA_ADAM;
  MlaAdam *p = &call->row.arguments.adam;
  expect_shapes(call);
  if (is_failed(call)) return;
  /* floats by their bits, in the host's memory: they change from step to step */
  const float *numbers = tf.TF_TensorData(last_input(call, NUMBERS));
  p->keep1 = numbers[BETA1], p->add1 = numbers[ONE_LESS_BETA1];
  p->keep2 = numbers[BETA2], p->add2 = numbers[ONE_LESS_BETA2];
  p->smallest = numbers[SMALLEST], p->rate = numbers[RATE], p->clip_norm = numbers[CLIP_NORM];
  p->first_moment = tf.TF_TensorData(last_input(call, FIRST_MOMENT));
  p->second_moment = tf.TF_TensorData(last_input(call, SECOND_MOMENT));
  for (int t = 0; t < call->tensors; t++) allocate_like(call, t, call->inputs[t]);
  p->new_first_moment = allocate_like(call, call->tensors + NEW_FIRST_MOMENT, last_input(call, FIRST_MOMENT));
  p->new_second_moment = allocate_like(call, call->tensors + NEW_SECOND_MOMENT, last_input(call, SECOND_MOMENT));
  p->norm = allocate(call, call->tensors + NORM, NULL, 0, 1);
  if (is_failed(call)) return;
  p->pieces = (int)cut(call, NULL);
  call->pieces = malloc(sizeof *call->pieces * (size_t)p->pieces + 1);
  if (!call->pieces) tf.TF_SetStatus(call->status, TF_RESOURCE_EXHAUSTED, "tfjs-mla: no memory to compute in");
  else cut(call, call->pieces);
  p->of = call->pieces;
}

typedef void Run(Call *);

static void run_on_cpu(Call *call) {
  if (!mla_cpu_run_rows(&call->row))
    tf.TF_SetStatus(call->status, TF_RESOURCE_EXHAUSTED, "tfjs-mla: no memory to compute in");
}

static void run_on_gpu(Call *call) { gpu_run(call->context, gpu_plan_rows, &call->row, call->status); }

static void compute(const ListAttributes *attributes, TF_OpKernelContext *context, Run *run) {
  int tensors = (int)attributes->tensors;
  Call call = {.context = context,
               .status = tf.TF_NewStatus(),
               .tensors = tensors,
               .input_count = 2 * tensors + LAST_INPUTS,
               .output_count = tensors + LAST_OUTPUTS};
  TF_Tensor **all = calloc((size_t)(call.input_count + call.output_count), sizeof *all);
  call.inputs = all, call.outputs = all + call.input_count;
  for (int i = 0; i < call.input_count && !is_failed(&call); i++)
    tf.TF_GetInput(context, i, &call.inputs[i], call.status);
  if (!is_failed(&call)) describe(&call);
  if (!is_failed(&call)) run(&call);
  if (is_failed(&call)) tf.TF_OpKernelContext_Failure(context, call.status);
  for (int i = 0; i < call.input_count + call.output_count; i++)
    if (all[i]) tf.TF_DeleteTensor(all[i]);
  free(call.pieces);
  free(all);
  tf.TF_DeleteStatus(call.status);
}

static void adam_on_cpu(void *attributes, TF_OpKernelContext *context) { compute(attributes, context, run_on_cpu); }
static void adam_on_gpu(void *attributes, TF_OpKernelContext *context) { compute(attributes, context, run_on_gpu); }

const char *register_adam(void) {
  TF_OpDefinitionBuilder *builder = tf.TF_NewOpDefinitionBuilder("MLAAdam");
  static const char *const inputs[] = {"values: N * float", "gradients: N * float", "first_moment: float",
                                       "second_moment: float", "numbers: int32"};
  static const char *const outputs[] = {"new_values: N * float", "new_first_moment: float", "new_second_moment: float",
                                        "norm: float"};
  for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++) tf.TF_OpDefinitionBuilderAddInput(builder, inputs[i]);
  for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++) tf.TF_OpDefinitionBuilderAddOutput(builder, outputs[i]);
  tf.TF_OpDefinitionBuilderAddAttr(builder, "N: int >= 1");
  const char *message = register_definition(builder, shape_unknown);
  return message ? message : register_kernels("MLAAdam", create_of_list, adam_on_cpu, adam_on_gpu, "numbers");
}
