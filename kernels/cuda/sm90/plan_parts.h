/* What the plans of this folder share. */
#ifndef MLA_SM90_PLAN_PARTS_H
#define MLA_SM90_PLAN_PARTS_H

#include "../families.h"
#include "../sm80/plan_parts.h"

enum { MLA_PANEL = 64 /* columns of a box */, MLA_WARPGROUP = 128 /* threads */ };

typedef struct {
  int columns, positions, heads, batch, box_positions;
} MlaExtent;

/* Adds the map of rows of 16-bit numbers, in boxes of a panel's columns. Returns 0 if the copy engine cannot read them. */
int mla_add_map(MlaLaunch *launch, MlaType type, const MlaRows *rows, MlaExtent extent);

/* `blocks` parts of `heads` heads, each with head_bytes of two tensors that `sharing` heads read; the GPU runs so many of them
   at once. Where there are but some rounds of them, blocks of threads stay and begin the next part's copies while they end one.
   Where there are many, the GPU deals them out, and L2 matters more: sections of heads (Turn in blocks.cuh) that it can hold. */
void mla_deal(MlaLaunch *launch, int64_t at_once, int64_t blocks, int heads, int64_t head_bytes, int sharing);

MlaFamily mla_plan_sm90_split, mla_plan_sm90_decode;

#endif
