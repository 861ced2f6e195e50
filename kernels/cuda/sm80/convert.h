/* What convert.cu and its plan share. */
#ifndef MLA_CONVERT_H
#define MLA_CONVERT_H

/* blockIdx.z of the conversion, which goes up to one of the last three. Without rope, k_rope has no columns. */
typedef enum { MLA_CONVERT_K, MLA_CONVERT_V, MLA_CONVERT_K_ROPE, MLA_CONVERT_Q, MLA_CONVERT_D_OUT } MlaConverted;

/* Threads of a block, and eights of numbers that each has on its way. */
enum { MLA_CONVERT_THREADS = 256, MLA_CONVERT_AT_ONCE = 4 };

#endif
