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
#include "delta.h"

static int units(MlaKernel kernel, const MlaParams *p) {
  if (kernel == MLA_DELTA) return p->batch * p->hq;
  return kernel == MLA_DKV ? key_tiles(p) : query_tiles(p);
}

static size_t scratch_bytes(MlaKernel kernel, const MlaParams *p) {
  Scratch scratch = {0};
  switch (kernel) {
    case MLA_FORWARD: place_forward(p, &scratch); break;
    case MLA_DELTA: place_delta(p, &scratch); break;
    case MLA_DQ: place_dq(p, &scratch); break;
    case MLA_DKV: place_dkv(p, &scratch); break;
  }
  return (size_t)scratch.next;
}

static void run_unit(MlaKernel kernel, const MlaParams *p, int unit, void *memory) {
  Scratch scratch = {memory};
  switch (kernel) {
    case MLA_FORWARD: attend_tile(p, unit, scratch); break;
    case MLA_DELTA: delta_of_head(p, unit, scratch); break;
    case MLA_DQ: dq_of_tile(p, unit, scratch); break;
    case MLA_DKV: dkv_of_tile(p, unit, scratch); break;
  }
}

#define JOIN(a, b) a##b
#define TABLE(isa) JOIN(mla_cpu_, isa)
#define TEXT(x) #x
#define NAME(isa) TEXT(isa)

const MlaCpuKernels TABLE(MLA_ISA) = {NAME(MLA_ISA), units, scratch_bytes, run_unit};
