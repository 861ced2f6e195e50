/* One call of an op: tensors and attributes become MlaParams, outputs are allocated, a kernel runs. */
#include "call.h"
#include "cpu/mla_cpu.h"
#include "gpu.h"

static TF_Tensor *allocate(Call *call, int output, int type, const int64_t *shape, int rank) {
  if (is_failed(call)) return NULL;
  size_t bytes = tf.TF_DataTypeSize(type);
  for (int i = 0; i < rank; i++) bytes *= (size_t)shape[i];
  call->outputs[output] = tf.TF_AllocateOutput(call->context, output, type, shape, rank, bytes, call->status);
  return call->outputs[output];
}

/* An output of the shape and type of an input; its rows lie as `rows` do. */
static MlaRows allocate_like(Call *call, int output, int input, MlaRows rows) {
  const TF_Tensor *tensor = call->inputs[input];
  int64_t shape[RANK];
  int rank = tf.TF_NumDims(tensor);
  for (int i = 0; i < rank; i++) shape[i] = tf.TF_Dim(tensor, i);
  TF_Tensor *made = allocate(call, output, tf.TF_TensorType(tensor), shape, rank);
  return made ? rows_at(rows, made) : rows;
}

static float *allocate_stats(Call *call, int output) {
  const MlaParams *p = &call->params;
  TF_Tensor *made = allocate(call, output, TF_FLOAT, (int64_t[]){p->batch, p->hq, p->sq}, 3);
  return made ? tf.TF_TensorData(made) : NULL;
}

static void allocate_d_q(Call *call) {
  MlaParams *p = &call->params;
  p->d_q = allocate_like(call, 0, 0, p->q);
  p->d_q_rope = p->is_decode ? allocate_like(call, 1, 1, p->q_rope) : rows_after(p->d_q, p->dn, p->type);
}

static void allocate_d_keys(Call *call, int first) {
  MlaParams *p = &call->params;
  if (p->is_decode) {
    p->d_k = allocate_like(call, first, 2, p->k);
    p->d_k_rope = allocate_like(call, first + 1, 3, p->k_rope);
  } else {
    p->d_k = allocate_like(call, first, 1, p->k);
    p->d_v = allocate_like(call, first + 1, 2, p->v);
    p->d_k_rope = allocate_like(call, first + 2, 3, p->k_rope);
  }
}

static void allocate_outputs(Call *call) {
  MlaParams *p = &call->params;
  int64_t shape[RANK];
  switch (call->attributes->op->kernel) {
    case MLA_FORWARD:
      shape_of(call->attributes->layout, (Dims){p->batch, p->sq, p->hq, p->dv}, shape);
      TF_Tensor *out = allocate(call, 0, tf.TF_TensorType(call->inputs[0]), shape, RANK);
      if (out) p->out = rows_at(p->out, out);
      p->lse = allocate_stats(call, 1);
      break;
    case MLA_DELTA:
      p->delta = allocate_stats(call, 0);
      break;
    case MLA_DQ:
      allocate_d_q(call);
      break;
    case MLA_DKV:
      allocate_d_keys(call, 0);
      break;
    case MLA_BACKWARD:
      allocate_d_q(call);
      allocate_d_keys(call, 1);
      break;
  }
}

typedef void Run(Call *);

static void run_on_cpu(Call *call) {
  if (!mla_cpu_run(call->attributes->op->kernel, &call->params))
    tf.TF_SetStatus(call->status, TF_RESOURCE_EXHAUSTED, "tfjs-mla: no memory to compute in");
}

static int plan(const MlaDevice *device, const void *of, void *workspace, MlaPlan *plan) {
  const Call *call = of;
  return mla_plan(device, call->attributes->op->kernel, &call->params, workspace, plan);
}

/* The memory of a tensor without elements is the host's. */
static void run_on_gpu(Call *call) {
  int64_t elements = 0;
  for (int i = 0; i < MOST_OUTPUTS; i++)
    if (call->outputs[i]) elements += tf.TF_TensorElementCount(call->outputs[i]);
  if (elements > 0) gpu_run(call->context, plan, call, call->status);
}

static void compute(const Attributes *attributes, TF_OpKernelContext *context, Run *run) {
  Call call = {.context = context, .attributes = attributes, .status = tf.TF_NewStatus()};
  const Op *op = attributes->op;
  for (int i = 0; op->inputs[i] && !is_failed(&call); i++) tf.TF_GetInput(context, i, &call.inputs[i], call.status);
  if (!is_failed(&call)) describe(&call);
  if (!is_failed(&call)) allocate_outputs(&call);
  if (!is_failed(&call)) run(&call);
  if (is_failed(&call)) tf.TF_OpKernelContext_Failure(context, call.status);
  for (int i = 0; i < MOST_INPUTS; i++)
    if (call.inputs[i]) tf.TF_DeleteTensor(call.inputs[i]);
  for (int i = 0; i < MOST_OUTPUTS; i++)
    if (call.outputs[i]) tf.TF_DeleteTensor(call.outputs[i]);
  tf.TF_DeleteStatus(call.status);
}

void compute_on_cpu(void *attributes, TF_OpKernelContext *context) { compute(attributes, context, run_on_cpu); }
void compute_on_gpu(void *attributes, TF_OpKernelContext *context) { compute(attributes, context, run_on_gpu); }
