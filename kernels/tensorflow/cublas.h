/* Products of matrices by cuBLAS, which every TensorFlow for GPUs brings: found at run time, like the driver. */
#ifndef MLA_CUBLAS_H
#define MLA_CUBLAS_H

#include "../cuda/driver.h"

/* c [rows, columns] = a [rows, depth] · b [depth, columns], all in rows. A factor that is transposed lies in memory as
   [depth, rows] or [columns, depth]. With `adds`, the product is added to what c holds. */
typedef struct {
  const float *a, *b;
  float *c;
  int rows, columns, depth;
  int is_a_transposed, is_b_transposed, adds;
} Product;

/* Finds cuBLAS; a second call does nothing. NULL, or in a sentence what is missing. */
const char *cublas_open(void);

/* Puts the products into a stream of the current context, one after another. Factors are rounded to TF32, as TensorFlow's
   own MatMul does by default; NVIDIA_TF32_OVERRIDE=0 keeps float32. NULL, or what went wrong. */
const char *cublas_multiply(const Product *products, int count, MlaStream stream);

#endif
