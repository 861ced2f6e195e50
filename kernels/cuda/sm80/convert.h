/* What convert.cu and its plan share. */
#ifndef MLA_CONVERT_H
#define MLA_CONVERT_H

/* Threads of a block, and eights of numbers that each has on its way. */
enum { MLA_CONVERT_THREADS = 256, MLA_CONVERT_AT_ONCE = 4 };

#endif
