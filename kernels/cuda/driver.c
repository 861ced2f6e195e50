#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "modules.h"

/* Versions that every glibc has: see kernels/tensorflow/tensorflow.c. */
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");

/* cuda.h, as far as it is used here. */
typedef int CuResult, CuDevice;
typedef struct CUctx_st *CuContext;
typedef struct CUmod_st *CuModule;
typedef struct CUfunc_st *CuFunction;
typedef struct {
  _Alignas(64) uint64_t opaque[16];
} CuTensorMap;

typedef struct {
  int id;
  union {
    int is_allowed;
    uint64_t room[8];
  } value;
} CuLaunchAttribute;
typedef struct {
  unsigned grid[3], block[3], shared_bytes;
  MlaStream stream;
  CuLaunchAttribute *attributes;
  unsigned attribute_count;
} CuLaunchConfig;

enum { STREAM_NON_BLOCKING = 1 };                                       /* CUstream_flags */
enum { MAX_DYNAMIC_SHARED_BYTES = 8 };                                  /* CUfunction_attribute */
enum { MULTIPROCESSORS = 16, CAPABILITY_MAJOR = 75, CAPABILITY_MINOR }; /* CUdevice_attribute */
enum { MAP_FLOAT16 = 6, MAP_FLOAT32 = 7, MAP_BFLOAT16 = 9 };            /* CUtensorMapDataType */
enum { PROGRAMMATIC_STREAM_SERIALIZATION = 6 };                         /* CUlaunchAttributeID */
enum { NO_INTERLEAVE, ZERO_FILL = 0, L2_PROMOTION_128_BYTES = 2 };

/* F(name, arguments): the names of the library, with the version's suffix where there is one */
#define CU_FUNCTIONS(F)                                                                                                \
  F(cuInit, (unsigned))                                                                                                \
  F(cuGetErrorString, (CuResult, const char **))                                                                       \
  F(cuDriverGetVersion, (int *))                                                                                       \
  F(cuCtxGetCurrent, (CuContext *))                                                                                    \
  F(cuCtxGetDevice, (CuDevice *))                                                                                      \
  F(cuCtxSynchronize, (void))                                                                                          \
  F(cuDeviceGet, (CuDevice *, int))                                                                                    \
  F(cuDeviceGetName, (char *, int, CuDevice))                                                                          \
  F(cuDeviceGetAttribute, (int *, int, CuDevice))                                                                      \
  F(cuStreamCreate, (MlaStream *, unsigned))                                                                           \
  F(cuStreamGetCtx, (MlaStream, CuContext *))                                                                          \
  F(cuMemcpyDtoDAsync_v2, (uintptr_t, uintptr_t, size_t, MlaStream))                                                   \
  F(cuMemcpyHtoDAsync_v2, (uintptr_t, const void *, size_t, MlaStream))                                                \
  F(cuLaunchHostFunc, (MlaStream, void (*)(void *), void *))                                                           \
  F(cuModuleLoadData, (CuModule *, const void *))                                                                      \
  F(cuModuleGetFunction, (CuFunction *, CuModule, const char *))                                                       \
  F(cuFuncSetAttribute, (CuFunction, int, int))                                                                        \
  F(cuLaunchKernel, (CuFunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, MlaStream,      \
                     void **, void **))
/* For Hopper, which drivers older than CUDA 12 do not know. */
#define CU_LATER_FUNCTIONS(F)                                                                                          \
  F(cuTensorMapEncodeTiled, (CuTensorMap *, int, uint32_t, void *, const uint64_t *, const uint64_t *,                 \
                             const uint32_t *, const uint32_t *, int, int, int, int))                                 \
  F(cuLaunchKernelEx, (const CuLaunchConfig *, CuFunction, void **, void **))

static struct {
#define CU_DECLARE(name, arguments) CuResult(*name) arguments;
  CU_FUNCTIONS(CU_DECLARE)
  CU_LATER_FUNCTIONS(CU_DECLARE)
#undef CU_DECLARE
} cu;

/* Each thread has its own sentence. */
static _Thread_local char sentence[320];

#define FAIL(...) (snprintf(sentence, sizeof sentence, __VA_ARGS__), sentence)

static const char *failure(CuResult result, const char *what, const char *of) {
  const char *why = NULL;
  if (!result) return NULL;
  if (cu.cuGetErrorString(result, &why) || !why) why = "unknown error";
  return FAIL("CUDA: %s%s%s failed with error %d: %s", what, of ? " of " : "", of ? of : "", result, why);
}

/* ---- the driver ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int is_open, driver_version;

static const char *open_driver(void) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return "CUDA: the driver's library libcuda.so.1 is not on this machine";
#define CU_FIND(name, arguments) \
  if (!(*(void **)&cu.name = dlsym(library, #name))) return "CUDA: this driver has no function " #name;
  CU_FUNCTIONS(CU_FIND)
#undef CU_FIND
#define CU_FIND(name, arguments) *(void **)&cu.name = dlsym(library, #name);
  CU_LATER_FUNCTIONS(CU_FIND)
#undef CU_FIND
  const char *error = failure(cu.cuDriverGetVersion(&driver_version), "cuDriverGetVersion", NULL);
  is_open = !error;
  return error;
}

const char *mla_cuda_open(void) {
  pthread_mutex_lock(&lock);
  const char *error = is_open ? NULL : open_driver();
  pthread_mutex_unlock(&lock);
  return error;
}

static const char *attribute(int which, CuDevice device, int *value) {
  return failure(cu.cuDeviceGetAttribute(value, which, device), "cuDeviceGetAttribute", NULL);
}

static const char *capability_of(CuDevice device, int *capability) {
  int major, minor;
  const char *error = attribute(CAPABILITY_MAJOR, device, &major);
  if (!error) error = attribute(CAPABILITY_MINOR, device, &minor);
  if (!error) *capability = 10 * major + minor;
  return error;
}

const char *mla_cuda_device(MlaDevice *device) {
  CuDevice which;
  const char *error = mla_cuda_open();
  if (!error) error = failure(cu.cuCtxGetDevice(&which), "cuCtxGetDevice", NULL);
  if (!error) error = capability_of(which, &device->capability);
  if (!error) error = attribute(MULTIPROCESSORS, which, &device->multiprocessors);
  return error;
}

/* ---- what is loaded: in every context anew, and for good, as the hosts' contexts live as long as they do ---- */

typedef struct {
  CuContext context;
  const MlaModule *source;
  CuModule module;
} LoadedModule;

typedef struct {
  CuContext context;
  const char *module, *name;
  CuFunction function;
  unsigned shared_bytes; /* that the function may have */
} LoadedFunction;

static LoadedModule *modules;
static LoadedFunction *functions;
static size_t module_count, function_count;

/* Room for one more; NULL if there is no memory. */
static void *grow(void *list, size_t count, size_t item_bytes) { return realloc(list, (count + 1) * item_bytes); }

static const MlaModule *source_of(const char *name) {
  for (const MlaModule *source = mla_modules; source->name; source++)
    if (!strcmp(source->name, name)) return source;
  return NULL;
}

enum { NEWER_DRIVER = 13000 };

static const char *image_of(const MlaModule *source, const void **image) {
  *image = driver_version >= NEWER_DRIVER ? source->start : source->older_start;
  if (*image) return NULL;
  return FAIL("CUDA: %s was built for drivers of CUDA 13 and newer (580), this one is of CUDA %d.%d", source->name,
              driver_version / 1000, driver_version % 1000 / 10);
}

static const char *load_module(CuContext context, const char *name, CuModule *module) {
  const MlaModule *source = source_of(name);
  if (!source) return FAIL("CUDA: module %s is not in this build", name);
  for (size_t i = 0; i < module_count; i++) {
    if (modules[i].context != context || modules[i].source != source) continue;
    *module = modules[i].module;
    return NULL;
  }
  LoadedModule *list = grow(modules, module_count, sizeof *list);
  if (!list) return "CUDA: no memory to load modules in";
  modules = list;
  const void *image = NULL;
  const char *error = image_of(source, &image);
  if (!error) error = failure(cu.cuModuleLoadData(module, image), "cuModuleLoadData", name);
  if (!error) modules[module_count++] = (LoadedModule){context, source, *module};
  return error;
}

static const char *load_function(CuContext context, const MlaLaunch *launch, LoadedFunction **loaded) {
  for (size_t i = 0; i < function_count; i++) {
    *loaded = &functions[i];
    if (functions[i].context == context && !strcmp(functions[i].name, launch->function) &&
        !strcmp(functions[i].module, launch->module))
      return NULL;
  }
  LoadedFunction *list = grow(functions, function_count, sizeof *list);
  if (!list) return "CUDA: no memory to load functions in";
  functions = list;
  CuModule module;
  CuFunction function;
  const char *error = load_module(context, launch->module, &module);
  if (!error) {
    CuResult result = cu.cuModuleGetFunction(&function, module, launch->function);
    error = failure(result, "cuModuleGetFunction", launch->function);
  }
  if (error) return error;
  *loaded = &functions[function_count++];
  **loaded = (LoadedFunction){context, launch->module, launch->function, function, 0};
  return NULL;
}

/* Without being asked a function gets 48 KiB. */
static const char *allow_shared(LoadedFunction *loaded, unsigned bytes) {
  enum { GRANTED_BYTES = 48 * 1024 };
  if (bytes <= GRANTED_BYTES || bytes <= loaded->shared_bytes) return NULL;
  const char *error = failure(cu.cuFuncSetAttribute(loaded->function, MAX_DYNAMIC_SHARED_BYTES, (int)bytes),
                              "cuFuncSetAttribute(MAX_DYNAMIC_SHARED_SIZE_BYTES)", loaded->name);
  if (!error) loaded->shared_bytes = bytes;
  return error;
}

static const char *function_of(const MlaLaunch *launch, CuFunction *function) {
  CuContext context = NULL;
  const char *error = failure(cu.cuCtxGetCurrent(&context), "cuCtxGetCurrent", NULL);
  if (!error && !context) error = "CUDA: no context is current";
  if (error) return error;
  LoadedFunction *loaded;
  pthread_mutex_lock(&lock);
  error = load_function(context, launch, &loaded);
  if (!error) error = allow_shared(loaded, launch->shared_bytes);
  if (!error) *function = loaded->function;
  pthread_mutex_unlock(&lock);
  return error;
}

/* ---- launches ---- */

static const char *encode(const MlaMap *map, const char *function, CuTensorMap *encoded) {
  static const int types[] = {[MLA_FLOAT32] = MAP_FLOAT32, [MLA_FLOAT16] = MAP_FLOAT16, [MLA_BFLOAT16] = MAP_BFLOAT16};
  static const uint32_t every_element[MLA_MAP_DIMS] = {1, 1, 1, 1, 1};
  int swizzle = map->swizzle_bytes == 128 ? 3 : map->swizzle_bytes / 32; /* 0, 32, 64, 128 */
  if (!cu.cuTensorMapEncodeTiled) return "CUDA: this driver has no function cuTensorMapEncodeTiled";
  return failure(cu.cuTensorMapEncodeTiled(encoded, types[map->type], (uint32_t)map->rank, map->start, map->dims,
                                           map->stride_bytes + 1, map->box, every_element, NO_INTERLEAVE, swizzle,
                                           L2_PROMOTION_128_BYTES, ZERO_FILL),
                 "cuTensorMapEncodeTiled", function);
}

static const char *run_launch(const MlaLaunch *launch, MlaStream stream) {
  CuFunction function = NULL;
  CuTensorMap maps[MLA_MOST_MAPS];
  void *parameters[1 + MLA_MOST_MAPS] = {(void *)&launch->arguments};
  const char *error = function_of(launch, &function);
  for (int i = 0; i < launch->map_count && !error; i++) {
    error = encode(&launch->maps[i], launch->function, &maps[i]);
    parameters[1 + i] = &maps[i];
  }
  if (error) return error;
  if (launch->is_early && cu.cuLaunchKernelEx) {
    CuLaunchAttribute early = {.id = PROGRAMMATIC_STREAM_SERIALIZATION, .value.is_allowed = 1};
    CuLaunchConfig config = {.grid = {launch->grid[0], launch->grid[1], launch->grid[2]},
                             .block = {launch->threads, 1, 1},
                             .shared_bytes = launch->shared_bytes,
                             .stream = stream,
                             .attributes = &early,
                             .attribute_count = 1};
    return failure(cu.cuLaunchKernelEx(&config, function, parameters, NULL), "cuLaunchKernelEx", launch->function);
  }
  return failure(cu.cuLaunchKernel(function, launch->grid[0], launch->grid[1], launch->grid[2], launch->threads, 1, 1,
                                   launch->shared_bytes, stream, parameters, NULL),
                 "cuLaunchKernel", launch->function);
}

const char *mla_cuda_run(const MlaPlan *plan, MlaStream stream) {
  const char *error = mla_cuda_open();
  const MlaTable *table = &plan->table;
  if (table->bytes && !error) {
    CuResult result = cu.cuMemcpyHtoDAsync_v2((uintptr_t)table->to, table->from, table->bytes, stream);
    error = failure(result, "cuMemcpyHtoDAsync", NULL);
  }
  for (int i = 0; i < plan->count && !error; i++) error = run_launch(&plan->launches[i], stream);
  return error;
}

/* ---- for the host ---- */

const char *mla_cuda_report(MlaCudaReport *report) {
  CuDevice first;
  const void *image;
  const char *error = mla_cuda_open();
  if (!error && !mla_modules[0].name) error = "CUDA: this build has no kernels for GPUs";
  if (!error) error = failure(cu.cuInit(0), "cuInit", NULL);
  if (!error) error = failure(cu.cuDeviceGet(&first, 0), "cuDeviceGet", NULL);
  if (!error) error = failure(cu.cuDeviceGetName(report->device, sizeof report->device, first), "cuDeviceGetName", NULL);
  if (!error) error = capability_of(first, &report->capability);
  if (!error) error = attribute(MULTIPROCESSORS, first, &report->multiprocessors);
  if (!error) error = image_of(&mla_modules[0], &image);
  report->driver_version = driver_version;
  report->images = driver_version >= NEWER_DRIVER ? 13 : 12;
  return error;
}

const char *mla_cuda_copy(void *to, const void *from, size_t bytes, MlaStream stream) {
  CuResult result = cu.cuMemcpyDtoDAsync_v2((uintptr_t)to, (uintptr_t)from, bytes, stream);
  return failure(result, "cuMemcpyDtoDAsync", NULL);
}

const char *mla_cuda_check_stream(MlaStream stream) {
  CuContext of_stream = NULL, current = NULL;
  const char *error = failure(cu.cuStreamGetCtx(stream, &of_stream), "cuStreamGetCtx", NULL);
  if (!error) error = failure(cu.cuCtxGetCurrent(&current), "cuCtxGetCurrent", NULL);
  return error || of_stream == current ? error : "CUDA: the stream is of another context";
}

const char *mla_cuda_synchronize(void) { return failure(cu.cuCtxSynchronize(), "cuCtxSynchronize", NULL); }

const char *mla_cuda_new_stream(MlaStream *stream) {
  return failure(cu.cuStreamCreate(stream, STREAM_NON_BLOCKING), "cuStreamCreate", NULL);
}

const char *mla_cuda_call(MlaStream stream, void (*function)(void *), void *argument) {
  return failure(cu.cuLaunchHostFunc(stream, function, argument), "cuLaunchHostFunc", NULL);
}
