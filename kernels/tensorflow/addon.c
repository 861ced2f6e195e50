/* The two hosts. Loading the file registers the ops if TensorFlow is there already: that is all that Python's
   tf.load_op_library needs. For Node it is an addon too; napi_* are weak, so that it loads where there is no Node. */
#include <pthread.h>
#include <stddef.h>

#include "../cuda/plan_text.h"
#include "cpu/mla_cpu.h"
#include "cublas.h"
#include "gpu.h"
#include "tensorflow.h"

#define EXPORT __attribute__((visibility("default")))

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int is_registered;

/* NULL, or in a sentence why the ops are not there. May be tried again. */
static const char *ensure_registered(void) {
  pthread_mutex_lock(&mutex);
  const char *message = is_registered ? NULL : find_tensorflow();
  if (!is_registered && !message) message = register_ops();
  is_registered = !message;
  pthread_mutex_unlock(&mutex);
  return message;
}

__attribute__((constructor)) static void on_load(void) { ensure_registered(); }

typedef struct napi_env__ *napi_env;
typedef struct napi_value__ *napi_value;
typedef struct napi_callback_info__ *napi_callback_info;
typedef napi_value (*napi_callback)(napi_env, napi_callback_info);

#define NAPI __attribute__((weak)) extern int
NAPI napi_create_function(napi_env, const char *, size_t, napi_callback, void *, napi_value *);
NAPI napi_create_object(napi_env, napi_value *);
NAPI napi_create_int32(napi_env, int32_t, napi_value *);
NAPI napi_create_string_utf8(napi_env, const char *, size_t, napi_value *);
NAPI napi_set_named_property(napi_env, napi_value, const char *, napi_value);
NAPI napi_get_cb_info(napi_env, napi_callback_info, size_t *, napi_value *, napi_value *, void **);
NAPI napi_get_value_int32(napi_env, napi_value, int32_t *);
NAPI napi_get_value_string_utf8(napi_env, napi_value, char *, size_t, size_t *);
NAPI napi_throw_error(napi_env, const char *, const char *);

static void set_text(napi_env env, napi_value object, const char *name, const char *text) {
  napi_value value;
  napi_create_string_utf8(env, text, (size_t)-1, &value);
  napi_set_named_property(env, object, name, value);
}

static void set_number(napi_env env, napi_value object, const char *name, int number) {
  napi_value value;
  napi_create_int32(env, number, &value);
  napi_set_named_property(env, object, name, value);
}

/* Of the GPU: {device, capability, multiprocessors, driver, images, noCublas}, or in a sentence why there is none for the
   ops. */
static void set_cuda(napi_env env, napi_value report) {
  MlaCudaReport found;
  napi_value cuda;
  const char *message = mla_cuda_report(&found);
  if (message) {
    set_text(env, report, "noCuda", message);
    return;
  }
  napi_create_object(env, &cuda);
  set_text(env, cuda, "device", found.device);
  set_number(env, cuda, "capability", found.capability);
  set_number(env, cuda, "multiprocessors", found.multiprocessors);
  set_number(env, cuda, "driver", found.driver_version);
  set_number(env, cuda, "images", found.images);
  const char *no_cublas = cublas_open();
  if (no_cublas) set_text(env, cuda, "noCublas", no_cublas);
  napi_set_named_property(env, report, "cuda", cuda);
}

/* register(): {tensorflow: its version, instructions, threads, cuda or noCuda}; throws if the ops cannot be registered. */
static napi_value js_register(napi_env env, napi_callback_info info) {
  (void)info;
  const char *message = ensure_registered();
  if (message) {
    napi_throw_error(env, "MLA_REGISTER", message);
    return NULL;
  }
  napi_value report;
  napi_create_object(env, &report);
  set_text(env, report, "tensorflow", tf.TF_Version());
  set_text(env, report, "instructions", mla_cpu_name());
  set_number(env, report, "threads", mla_cpu_threads());
  set_cuda(env, report);
  return report;
}

/* planOnGpu(call): the text of mla_plan_text. Needs neither TensorFlow nor a GPU. */
static napi_value js_plan_on_gpu(napi_env env, napi_callback_info info) {
  char call[512], text[4096];
  size_t count = 1, length;
  napi_value argument, result;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  if (count < 1 || napi_get_value_string_utf8(env, argument, call, sizeof call, &length) ||
      !mla_plan_text(call, text, sizeof text)) {
    napi_throw_error(env, "MLA_PLAN", "planOnGpu: expected the numbers of a call in a string");
    return NULL;
  }
  napi_create_string_utf8(env, text, (size_t)-1, &result);
  return result;
}

/* testStream(choice, delay in microseconds), for tests alone: see gpu.h. Returns {calls, waits}, counted so far. */
static napi_value js_test_stream(napi_env env, napi_callback_info info) {
  int choice = STREAM_OF_TENSORFLOW, delay_us = 0, calls, waits;
  size_t count = 2;
  napi_value arguments[2], result;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  if (count > 0) napi_get_value_int32(env, arguments[0], &choice);
  if (count > 1) napi_get_value_int32(env, arguments[1], &delay_us);
  gpu_choose_stream((StreamChoice)choice, delay_us);
  gpu_count_calls(&calls, &waits);
  napi_create_object(env, &result);
  set_number(env, result, "calls", calls);
  set_number(env, result, "waits", waits);
  return result;
}

EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  static const struct {
    const char *name;
    napi_callback function;
  } all[] = {{"register", js_register}, {"planOnGpu", js_plan_on_gpu}, {"testStream", js_test_stream}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    napi_value function;
    napi_create_function(env, all[i].name, (size_t)-1, all[i].function, NULL, &function);
    napi_set_named_property(env, exports, all[i].name, function);
  }
  return exports;
}
