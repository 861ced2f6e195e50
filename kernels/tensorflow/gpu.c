#include "gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../cuda/modules.h"

static StreamChoice choice;
static int delay_us, calls, waits;

const char *gpu_open(void) {
  const char *asked = getenv("MLA_STREAM");
  if (asked && !strcmp(asked, "wait")) choice = STREAM_AND_WAIT;
  return mla_modules[0].name ? mla_cuda_open() : "this build of the library has no kernels for GPUs";
}

void gpu_choose_stream(StreamChoice chosen, int chosen_delay_us) {
  choice = chosen;
  delay_us = chosen_delay_us;
}

void gpu_count_calls(int *calls_so_far, int *waits_so_far) {
  *calls_so_far = calls;
  *waits_so_far = waits;
}

/* ---- the stream */

/* TensorFlow's C API tells the stream of no GPU of its own. Its kernels in C++ ask OpKernelContext::eigen_gpu_device(),
   whose first field is an Eigen::StreamInterface; stream() stands third in the table of that class, after the
   destructor's two. So it is in TensorFlow 2.9 to 2.21. */
static MlaStream stream_of(TF_OpKernelContext *context) {
  typedef const MlaStream *Stream(const void *);
  const void *stream_interface = *(const void *const *)tf_eigen_gpu_device(context);
  Stream *const *table = *(Stream *const *const *)stream_interface;
  return *table[2](stream_interface);
}

/* Trusts a stream once the driver has said that it is one of the context that TensorFlow computes in. */
static int find_stream(TF_OpKernelContext *context, MlaStream *stream) {
  static _Thread_local MlaStream trusted;
  if (!tf_eigen_gpu_device) return 0;
  *stream = stream_of(context);
  if (*stream == trusted) return 1;
  if (mla_cuda_check_stream(*stream)) return 0;
  trusted = *stream;
  return 1;
}

static void sleep_in_stream(void *microseconds) { usleep((useconds_t)(intptr_t)microseconds); }

/* Waiting is right in every stream: nothing is under way when the kernel starts, and nothing when the op returns. */
const char *gpu_begin(TF_OpKernelContext *context, MlaStream *stream) {
  static MlaStream our_own;
  const char *error = NULL;
  *stream = NULL;
  __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED);
  if (choice == STREAM_OF_OUR_OWN) {
    if (!our_own) error = mla_cuda_new_stream(&our_own);
    *stream = our_own;
  } else if (choice == STREAM_AND_WAIT || (choice == STREAM_OF_TENSORFLOW && !find_stream(context, stream))) {
    *stream = NULL;
    __atomic_add_fetch(&waits, 1, __ATOMIC_RELAXED);
    error = mla_cuda_synchronize();
  }
  if (!error && delay_us) error = mla_cuda_call(*stream, sleep_in_stream, (void *)(intptr_t)delay_us);
  return error;
}

const char *gpu_end(MlaStream stream) {
  return stream || choice == STREAM_NULL ? NULL : mla_cuda_synchronize();
}

/* ---- a call */

static void set_failure(TF_Status *status, int code, const char *message) {
  char text[400];
  snprintf(text, sizeof text, "tfjs-mla: %s", message);
  tf.TF_SetStatus(status, code, text);
}

static int expect_device(MlaDevice *device, TF_Status *status) {
  enum { LEAST_CAPABILITY = 80 };
  char message[96];
  const char *error = mla_cuda_device(device);
  if (!error && device->capability < LEAST_CAPABILITY) {
    snprintf(message, sizeof message, "required: a GPU of compute capability 8.0 or newer, got %d.%d",
             device->capability / 10, device->capability % 10);
    error = message;
  }
  if (error) set_failure(status, TF_INTERNAL, error);
  return !error;
}

/* Memory that the next op in the stream may have as soon as this one returns; NULL if none is needed, or there is none. */
static TF_Tensor *allocate_workspace(TF_OpKernelContext *context, size_t bytes, TF_Status *status) {
  TF_AllocatorAttributes attributes = {.struct_size = sizeof attributes.struct_size + 1, .on_host = 0};
  if (!bytes) return NULL;
  return tf.TF_AllocateTemp(context, TF_UINT8, (int64_t[]){(int64_t)bytes}, 1, &attributes, status);
}

int gpu_plan_rows(const MlaDevice *device, const void *call, void *workspace, MlaPlan *plan) {
  (void)device;
  mla_plan_rows(call, workspace, plan);
  return 1;
}

void gpu_run(TF_OpKernelContext *context, Planner *planner, const void *call, TF_Status *status) {
  MlaDevice device;
  MlaPlan plan;
  if (!expect_device(&device, status)) return;
  if (!planner(&device, call, NULL, &plan)) {
    set_failure(status, TF_UNIMPLEMENTED, "no kernel serves this call on a GPU");
    return;
  }
  TF_Tensor *workspace = allocate_workspace(context, plan.workspace_bytes, status);
  if (workspace) planner(&device, call, tf.TF_TensorData(workspace), &plan);
  if (!tf.TF_GetCode(status)) {
    MlaStream stream;
    const char *error = gpu_begin(context, &stream);
    if (!error) error = mla_cuda_run(&plan, stream);
    if (!error) error = gpu_end(stream);
    if (error) set_failure(status, TF_INTERNAL, error);
  }
  if (workspace) tf.TF_DeleteTensor(workspace);
}
