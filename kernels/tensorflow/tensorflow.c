#define _GNU_SOURCE
#include "tensorflow.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

/* Versions that every glibc has: the file then runs on older systems than the one that it was built on. */
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");

TensorFlow tf;
const void *(*tf_eigen_gpu_device)(const TF_OpKernelContext *);

enum { MOST_LIBRARIES = 16 };
static void *libraries[MOST_LIBRARIES];
static int library_count;

/* A handle of every loaded file that TensorFlow may be in: neither host makes its symbols global. */
static int keep_library(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  const char *name = info->dlpi_name ? strrchr(info->dlpi_name, '/') : NULL;
  if (!name || !(strstr(name, "libtensorflow") || strstr(name, "_pywrap_tensorflow"))) return 0;
  void *library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  if (library && library_count < MOST_LIBRARIES) libraries[library_count++] = library;
  return 0;
}

static void *find(const char *name) {
  void *symbol = dlsym(RTLD_DEFAULT, name);
  for (int i = 0; !symbol && i < library_count; i++) symbol = dlsym(libraries[i], name);
  return symbol;
}

const char *find_tensorflow(void) {
  static char missing[128];
  if (library_count == 0) dl_iterate_phdr(keep_library, NULL);
  if (!find("TF_RegisterKernelBuilder")) {
    library_count = 0;
    return "TensorFlow is not loaded in this process";
  }
#define TF_FIND(result, name, arguments)                                           \
  if (!(*(void **)&tf.name = find(#name))) {                                       \
    snprintf(missing, sizeof missing, "this TensorFlow has no function %s", #name); \
    return missing;                                                                \
  }
  TF_FUNCTIONS(TF_FIND)
#undef TF_FIND
  *(void **)&tf_eigen_gpu_device =
      find("_ZNK10tensorflow15OpKernelContext12eigen_deviceIN5Eigen9GpuDeviceEEERKT_v");
  return NULL;
}
