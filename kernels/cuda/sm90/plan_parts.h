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

MlaFamily mla_plan_sm90_decode;

#endif
