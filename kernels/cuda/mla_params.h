/* One call of a kernel, without TensorFlow and without Node: what call.c makes of tensors and attributes. */
#ifndef MLA_PARAMS_H
#define MLA_PARAMS_H

#include <stdint.h>

typedef enum { MLA_FLOAT32, MLA_FLOAT16, MLA_BFLOAT16 } MlaType;

/* What float32 tensors are multiplied as on a GPU; those of 16 bits are multiplied as they are. All sums are float32. */
typedef enum { MLA_AS_FLOAT32, MLA_AS_TF32, MLA_AS_FLOAT16, MLA_AS_BFLOAT16 } MlaPrecision;

/* The kernels of MLAAttention; those of MLADecode are the same, but for MLA_BACKWARD: MLA_DELTA, MLA_DQ and MLA_DKV at once,
   with `delta` in memory of its own. */
typedef enum { MLA_FORWARD, MLA_DELTA, MLA_DQ, MLA_DKV, MLA_BACKWARD } MlaKernel;

/* The rows of a tensor: its first element, and the elements from one batch entry, position or head to the next. */
typedef struct {
  void *start;
  int64_t batch, position, head;
} MlaRows;

/* The letters of gradients/README.md. Tensors that a kernel neither reads nor writes are empty. */
typedef struct {
  int batch, hq, hkv, sq, skv, dn, dr, dv;
  float softmax_scale;
  int is_decode; /* key and value are one tensor */
  /* keys that a row sees left and right of its diagonal, the causal mask included */
  int left, right, is_top_left;
  /* of q, k, v, out and their gradients; all sums are float32 */
  MlaType type;
  MlaPrecision precision;
  const int32_t *q_lengths, *kv_lengths; /* [batch], or NULL */
  MlaRows q, q_rope, k, k_rope, v, out, d_out, d_q, d_q_rope, d_k, d_k_rope, d_v;
  float *lse, *delta;                    /* [batch, hq, sq] */
  const float *d_lse;                    /* likewise, or NULL */
} MlaParams;

#endif
