/* The two hosts. Loading the file registers the ops if TensorFlow is there already: that is all that Python's
   tf.load_op_library needs. For Node it is an addon too; napi_* are weak, so that it loads where there is no Node. */
#include <pthread.h>
#include <stddef.h>

#include "cpu/mla_cpu.h"
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
NAPI napi_throw_error(napi_env, const char *, const char *);

static void set_text(napi_env env, napi_value object, const char *name, const char *text) {
  napi_value value;
  napi_create_string_utf8(env, text, (size_t)-1, &value);
  napi_set_named_property(env, object, name, value);
}

/* register(): {tensorflow: its version, instructions, threads}; throws if the ops cannot be registered. */
static napi_value js_register(napi_env env, napi_callback_info info) {
  (void)info;
  const char *message = ensure_registered();
  if (message) {
    napi_throw_error(env, "MLA_REGISTER", message);
    return NULL;
  }
  napi_value report, threads;
  napi_create_object(env, &report);
  set_text(env, report, "tensorflow", tf.TF_Version());
  set_text(env, report, "instructions", mla_cpu_name());
  napi_create_int32(env, mla_cpu_threads(), &threads);
  napi_set_named_property(env, report, "threads", threads);
  return report;
}

EXPORT napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  napi_value function;
  napi_create_function(env, "register", (size_t)-1, js_register, NULL, &function);
  napi_set_named_property(env, exports, "register", function);
  return exports;
}
