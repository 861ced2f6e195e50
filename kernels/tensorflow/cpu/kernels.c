/* All kernels for one instruction set, MLA_ISA: the build compiles this file once for each (see mla_cpu.h). */
#include "mla_cpu.h"

#include "simd.h"
#include "tile.h"
#include "scratch.h"
#include "visibility.h"
#include "operands.h"
#include "query_tile.h"
#include "attention.h"
#include "dq.h"
#include "dkv.h"
#include "backward.h"
#include "delta.h"
#include "rows.h"

static int units(MlaCpuJob job, const MlaParams *p) {
  switch (job) {
    case JOB_FORWARD:
    case JOB_DQ: return p->batch * p->hkv * query_tiles(p);
    case JOB_DELTA: return p->batch * p->hq;
    case JOB_DKV: return p->batch * key_tiles(p);
    case JOB_BACKWARD: return p->batch * p->hkv;
    case JOB_ROPE_SUM: return p->dr ? p->batch * key_tiles(p) : 0;
  }
  return 0;
}

static size_t scratch_bytes(MlaCpuJob job, const MlaParams *p) {
  Scratch scratch = {0};
  switch (job) {
    case JOB_FORWARD: place_forward(p, &scratch); break;
    case JOB_DELTA: place_delta(p, &scratch); break;
    case JOB_DQ: place_dq(p, &scratch); break;
    case JOB_DKV: place_dkv(p, &scratch); break;
    case JOB_BACKWARD: place_backward(p, &scratch); break;
    case JOB_ROPE_SUM: take_floats(&scratch, p->dr); break;
  }
  return (size_t)scratch.next;
}

static void run_unit(MlaCpuJob job, const MlaParams *p, float *rope_parts, int unit, void *memory) {
  Scratch scratch = {memory};
  switch (job) {
    case JOB_FORWARD: attend_tile(p, unit, scratch); break;
    case JOB_DELTA: delta_of_head(p, unit, scratch); break;
    case JOB_DQ: dq_of_tile(p, unit, scratch); break;
    case JOB_DKV: dkv_of_tile(p, unit, scratch); break;
    case JOB_BACKWARD: backward_of_head(p, rope_parts, unit, scratch); break;
    case JOB_ROPE_SUM: sum_rope_parts(p, rope_parts, unit, scratch); break;
  }
}

#define JOIN(a, b) a##b
#define TABLE(isa) JOIN(mla_cpu_, isa)
#define TEXT(x) #x
#define NAME(isa) TEXT(isa)

const MlaCpuKernels TABLE(MLA_ISA) = {NAME(MLA_ISA), units, scratch_bytes, run_unit, row_units, run_row_unit};
