/* What split.cu, its plan and the kernels after it share. */
#ifndef MLA_SPLIT_H
#define MLA_SPLIT_H

/* blockIdx.y of split.cu. A call may lack the last. */
typedef enum { MLA_SPLIT_Q, MLA_SPLIT_K, MLA_SPLIT_V, MLA_SPLIT_D_OUT } MlaSplit;

/* How a head's rows lie: the lows of eight numbers behind their highs (mma.cuh), or all highs of the head, then all lows. */
typedef enum { MLA_SPLIT_IN_ROWS, MLA_SPLIT_IN_PLANES } MlaSplitForm;

/* Rows of a head that are multiplied by one power of two; tiles of a walk do not cross them. */
enum { MLA_SPLIT_ROWS = 64 };

/* Threads of a block, and eights of numbers that each takes: all of the rows of up to 192 columns. */
enum { MLA_SPLIT_THREADS = 256, MLA_SPLIT_EIGHTS = 6 };

#endif
