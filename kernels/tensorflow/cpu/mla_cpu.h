/* The CPU kernels, as op.c sees them. */
#ifndef MLA_CPU_H
#define MLA_CPU_H

#include <stddef.h>
#include "../../cuda/mla_params.h"

/* The kernels compiled for one instruction set, as pieces of work that do not depend on one another. */
typedef struct {
  const char *name;
  int (*units)(MlaKernel, const MlaParams *);
  size_t (*scratch_bytes)(MlaKernel, const MlaParams *);
  /* any thread may do any unit, with the same bits; scratch may hold anything */
  void (*run_unit)(MlaKernel, const MlaParams *, int unit, void *scratch);
} MlaCpuKernels;

extern const MlaCpuKernels mla_cpu_sse2, mla_cpu_avx2, mla_cpu_avx512;

/* Runs a kernel on all processors that the process may use. Returns 0 if there is no memory for it. */
int mla_cpu_run(MlaKernel kernel, const MlaParams *params);

/* What mla_cpu_run uses: the name of the instruction set, and the number of threads. */
const char *mla_cpu_name(void);
int mla_cpu_threads(void);

#endif
