/* MLACacheAppend: rows written into a cache in place, through the memory of the inputs themselves. */
#include <string.h>

#include "gpu.h"
#include "op.h"

/* Copies bytes; returns NULL or what went wrong. A stream is of no use to the CPU. */
typedef const char *Copy(void *to, const void *from, size_t bytes, MlaStream stream);

static const char *copy_on_cpu(void *to, const void *from, size_t bytes, MlaStream stream) {
  (void)stream;
  memcpy(to, from, bytes);
  return NULL;
}

static const char *append(TF_Tensor *cache, TF_Tensor *rows, const int32_t *lengths, Copy *copy, MlaStream stream) {
  int64_t batch = tf.TF_Dim(cache, 0), capacity = tf.TF_Dim(cache, 1), n = tf.TF_Dim(rows, 1);
  size_t row_bytes = (size_t)tf.TF_Dim(cache, 2) * tf.TF_DataTypeSize(tf.TF_TensorType(cache));
  char *to = tf.TF_TensorData(cache), *from = tf.TF_TensorData(rows);
  const char *error = NULL;
  for (int64_t b = 0; b < batch && !error; b++) {
    int64_t before = lengths[b], added = lengths[batch + b];
    size_t bytes = (size_t)added * row_bytes;
    if (before < 0 || added < 0 || added > n || before + added > capacity || !bytes) continue;
    error = copy(to + (size_t)(b * capacity + before) * row_bytes, from + (size_t)(b * n) * row_bytes, bytes, stream);
  }
  return error;
}

enum { C_KV, K_ROPE, NEW_C_KV, NEW_K_ROPE, LENGTHS, COUNT };

static const char *append_both(TF_Tensor **in, Copy *copy, MlaStream stream) {
  const int32_t *lengths = tf.TF_TensorData(in[LENGTHS]);
  const char *error = append(in[C_KV], in[NEW_C_KV], lengths, copy, stream);
  return error ? error : append(in[K_ROPE], in[NEW_K_ROPE], lengths, copy, stream);
}

typedef const char *Run(TF_OpKernelContext *context, TF_Tensor **in);

static const char *run_on_cpu(TF_OpKernelContext *context, TF_Tensor **in) {
  (void)context;
  return append_both(in, copy_on_cpu, NULL);
}

/* The lengths are in the host's memory here too: op.c asks for them there. */
static const char *run_on_gpu(TF_OpKernelContext *context, TF_Tensor **in) {
  MlaStream stream;
  const char *error = gpu_begin(context, &stream);
  if (!error) error = append_both(in, mla_cuda_copy, stream);
  return error ? error : gpu_end(stream);
}

static void expect_shapes(TF_Tensor **in, TF_Status *status) {
  int has_ranks = 1;
  for (int i = 0; i < LENGTHS; i++) has_ranks = has_ranks && tf.TF_NumDims(in[i]) == 3;
  if (!has_ranks)
    tf.TF_SetStatus(status, TF_INVALID_ARGUMENT, "MLACacheAppend: the cache and the new rows must have rank 3");
  else if (tf.TF_TensorElementCount(in[LENGTHS]) != 2 * tf.TF_Dim(in[C_KV], 0))
    tf.TF_SetStatus(status, TF_INVALID_ARGUMENT, "MLACacheAppend: lengths must be [2, b]");
}

static void append_to_cache(TF_OpKernelContext *context, Run *run) {
  TF_Tensor *in[COUNT] = {0};
  TF_Status *status = tf.TF_NewStatus();
  for (int i = 0; i < COUNT && !tf.TF_GetCode(status); i++) tf.TF_GetInput(context, i, &in[i], status);
  if (!tf.TF_GetCode(status)) expect_shapes(in, status);
  if (!tf.TF_GetCode(status)) {
    const char *error = run(context, in);
    if (error) tf.TF_SetStatus(status, TF_INTERNAL, error);
  }
  if (tf.TF_GetCode(status)) tf.TF_OpKernelContext_Failure(context, status);
  for (int i = 0; i < COUNT; i++)
    if (in[i]) tf.TF_DeleteTensor(in[i]);
  tf.TF_DeleteStatus(status);
}

void append_on_cpu(void *nothing, TF_OpKernelContext *context) {
  (void)nothing;
  append_to_cache(context, run_on_cpu);
}

void append_on_gpu(void *nothing, TF_OpKernelContext *context) {
  (void)nothing;
  append_to_cache(context, run_on_gpu);
}
