/* MLACacheAppend: rows written into a cache in place, through the memory of the inputs themselves. */
#include <string.h>

#include "op.h"

static void append(TF_Tensor *cache, TF_Tensor *rows, const int32_t *lengths) {
  int64_t batch = tf.TF_Dim(cache, 0), capacity = tf.TF_Dim(cache, 1), n = tf.TF_Dim(rows, 1);
  size_t row_bytes = (size_t)tf.TF_Dim(cache, 2) * tf.TF_DataTypeSize(tf.TF_TensorType(cache));
  char *to = tf.TF_TensorData(cache), *from = tf.TF_TensorData(rows);
  for (int64_t b = 0; b < batch; b++) {
    int64_t before = lengths[b], added = lengths[batch + b];
    if (before < 0 || added < 0 || added > n || before + added > capacity) continue;
    memcpy(to + (size_t)(b * capacity + before) * row_bytes, from + (size_t)(b * n) * row_bytes,
           (size_t)added * row_bytes);
  }
}

void append_to_cache(void *nothing, TF_OpKernelContext *context) {
  (void)nothing;
  enum { C_KV, K_ROPE, NEW_C_KV, NEW_K_ROPE, LENGTHS, COUNT };
  TF_Tensor *in[COUNT] = {0};
  TF_Status *status = tf.TF_NewStatus();
  for (int i = 0; i < COUNT && !tf.TF_GetCode(status); i++) tf.TF_GetInput(context, i, &in[i], status);
  int has_ranks = 1;
  for (int i = 0; i < LENGTHS; i++) has_ranks = has_ranks && in[i] && tf.TF_NumDims(in[i]) == 3;
  if (!tf.TF_GetCode(status) && !has_ranks)
    tf.TF_SetStatus(status, TF_INVALID_ARGUMENT, "MLACacheAppend: the cache and the new rows must have rank 3");
  if (!tf.TF_GetCode(status) && tf.TF_TensorElementCount(in[LENGTHS]) != 2 * tf.TF_Dim(in[C_KV], 0))
    tf.TF_SetStatus(status, TF_INVALID_ARGUMENT, "MLACacheAppend: lengths must be [2, b]");
  if (tf.TF_GetCode(status)) {
    tf.TF_OpKernelContext_Failure(context, status);
  } else {
    append(in[C_KV], in[NEW_C_KV], tf.TF_TensorData(in[LENGTHS]));
    append(in[K_ROPE], in[NEW_K_ROPE], tf.TF_TensorData(in[LENGTHS]));
  }
  for (int i = 0; i < COUNT; i++)
    if (in[i]) tf.TF_DeleteTensor(in[i]);
  tf.TF_DeleteStatus(status);
}
