#define _GNU_SOURCE
#include "cublas.h"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* Versions that every glibc has: see tensorflow.c. */
__asm__(".symver dlopen,dlopen@GLIBC_2.2.5");
__asm__(".symver dlsym,dlsym@GLIBC_2.2.5");

/* cublas_api.h, as far as it is used here. */
typedef struct cublasContext *Handle;
enum { PLAIN, TRANSPOSED };      /* cublasOperation_t */
enum { TF32_TENSOR_OP_MATH = 3 }; /* cublasMath_t */

/* F(name, arguments) */
#define CUBLAS_FUNCTIONS(F)                                                                                            \
  F(cublasCreate_v2, (Handle *))                                                                                       \
  F(cublasSetMathMode, (Handle, int))                                                                                  \
  F(cublasSetStream_v2, (Handle, MlaStream))                                                                           \
  F(cublasSgemm_v2, (Handle, int, int, int, int, int, const float *, const float *, int, const float *, int,           \
                     const float *, float *, int))

static struct {
#define CUBLAS_DECLARE(name, arguments) int(*name) arguments;
  CUBLAS_FUNCTIONS(CUBLAS_DECLARE)
#undef CUBLAS_DECLARE
} cublas;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static void *library;
static Handle handle;

static int keep_cublas(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  if (info->dlpi_name && strstr(info->dlpi_name, "/libcublas.so"))
    library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  return library != NULL;
}

/* TensorFlow's own copy, if it has loaded it already. */
static const char *open_library(void) {
  static const char *const names[] = {"libcublas.so.12", "libcublas.so.13", "libcublas.so.11"};
  if (!library) dl_iterate_phdr(keep_cublas, NULL);
  for (size_t i = 0; !library && i < sizeof names / sizeof *names; i++) library = dlopen(names[i], RTLD_LAZY | RTLD_LOCAL);
  if (!library) return "cuBLAS: libcublas.so is not on this machine";
#define CUBLAS_FIND(name, arguments) \
  if (!(*(void **)&cublas.name = dlsym(library, #name))) return "cuBLAS: this library has no function " #name;
  CUBLAS_FUNCTIONS(CUBLAS_FIND)
#undef CUBLAS_FIND
  return NULL;
}

const char *cublas_open(void) {
  pthread_mutex_lock(&lock);
  const char *error = cublas.cublasSgemm_v2 ? NULL : open_library();
  pthread_mutex_unlock(&lock);
  return error;
}

/* cuBLAS' matrices lie in columns: in rows that is the transposed product, c' = b' a'. */
static int multiply(const Product *p) {
  static const float one = 1, zero = 0;
  if (p->rows == 0 || p->columns == 0) return 0;
  int a_row = p->is_a_transposed ? p->rows : p->depth, b_row = p->is_b_transposed ? p->depth : p->columns;
  return cublas.cublasSgemm_v2(handle, p->is_b_transposed ? TRANSPOSED : PLAIN, p->is_a_transposed ? TRANSPOSED : PLAIN,
                               p->columns, p->rows, p->depth, &one, p->b, b_row, p->a, a_row, p->adds ? &one : &zero,
                               p->c, p->columns);
}

static int open_handle(void) {
  if (handle) return 0;
  int status = cublas.cublasCreate_v2(&handle);
  return status ? status : cublas.cublasSetMathMode(handle, TF32_TENSOR_OP_MATH);
}

/* A handle serves one thread at a time. */
const char *cublas_multiply(const Product *products, int count, MlaStream stream) {
  static _Thread_local char sentence[64];
  const char *error = cublas_open();
  if (error) return error;
  pthread_mutex_lock(&lock);
  int status = open_handle();
  if (!status) status = cublas.cublasSetStream_v2(handle, stream);
  for (int i = 0; i < count && !status; i++) status = multiply(&products[i]);
  pthread_mutex_unlock(&lock);
  if (!status) return NULL;
  snprintf(sentence, sizeof sentence, "cuBLAS failed with status %d", status);
  return sentence;
}
