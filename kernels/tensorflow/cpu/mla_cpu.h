/* The CPU kernels, as op.c sees them. */
#ifndef MLA_CPU_H
#define MLA_CPU_H

#include <stddef.h>
#include "../../cuda/mla_params.h"
#include "../../cuda/mla_rows.h"

/* What threads do together: units of work that do not depend on one another. A kernel is a job, but MLA_BACKWARD is
   three: JOB_DELTA, then JOB_BACKWARD and JOB_ROPE_SUM, or JOB_DQ and JOB_DKV. */
typedef enum { JOB_FORWARD, JOB_DELTA, JOB_DQ, JOB_DKV, JOB_BACKWARD, JOB_ROPE_SUM } MlaCpuJob;

/* The kernels compiled for one instruction set. */
typedef struct {
  const char *name;
  int (*units)(MlaCpuJob, const MlaParams *);
  size_t (*scratch_bytes)(MlaCpuJob, const MlaParams *);
  /* any thread may do any unit, with the same bits; scratch may hold anything */
  void (*run_unit)(MlaCpuJob, const MlaParams *, float *rope_parts, int unit, void *scratch);
  /* the same for a row kernel */
  int (*row_units)(const MlaRowCall *);
  void (*run_row_unit)(const MlaRowCall *, int unit);
} MlaCpuKernels;

extern const MlaCpuKernels mla_cpu_sse2, mla_cpu_avx2, mla_cpu_avx512;

/* Run a kernel on all processors that the process may use. Return 0 if there is no memory for it. */
int mla_cpu_run(MlaKernel kernel, const MlaParams *params);
int mla_cpu_run_rows(const MlaRowCall *call);

/* What they use: the name of the instruction set, and the number of threads. */
const char *mla_cpu_name(void);
int mla_cpu_threads(void);

#endif
