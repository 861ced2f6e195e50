/* The CPU kernels, as op.c sees them. */
#ifndef MLA_CPU_H
#define MLA_CPU_H

#include <stddef.h>
#include "../../cuda/mla_params.h"

/* What threads do together: units of work that do not depend on one another. A kernel is a job, but MLA_BACKWARD is two:
   JOB_BACKWARD and JOB_ROPE_SUM, or JOB_DQ and JOB_DKV. */
typedef enum { JOB_FORWARD, JOB_DELTA, JOB_DQ, JOB_DKV, JOB_BACKWARD, JOB_ROPE_SUM } MlaCpuJob;

/* The kernels compiled for one instruction set. */
typedef struct {
  const char *name;
  int (*units)(MlaCpuJob, const MlaParams *);
  size_t (*scratch_bytes)(MlaCpuJob, const MlaParams *);
  /* any thread may do any unit, with the same bits; scratch may hold anything */
  void (*run_unit)(MlaCpuJob, const MlaParams *, float *rope_parts, int unit, void *scratch);
} MlaCpuKernels;

extern const MlaCpuKernels mla_cpu_sse2, mla_cpu_avx2, mla_cpu_avx512;

/* Runs a kernel on all processors that the process may use. Returns 0 if there is no memory for it. */
int mla_cpu_run(MlaKernel kernel, const MlaParams *params);

/* What mla_cpu_run uses: the name of the instruction set, and the number of threads. */
const char *mla_cpu_name(void);
int mla_cpu_threads(void);

#endif
