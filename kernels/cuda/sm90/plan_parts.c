#include "plan_parts.h"

/* A dim that has one index, or one for all (stride 0), may have any stride. */
static void describe_dim(MlaMap *map, int dim, int64_t size, int64_t stride) {
  int is_one = size == 1 || stride == 0;
  map->dims[dim] = is_one ? 1 : (uint64_t)size;
  map->stride_bytes[dim] = is_one ? 16 : (uint64_t)stride * 2;
}

int mla_add_map(MlaLaunch *launch, MlaType type, const MlaRows *rows, MlaExtent extent) {
  if (!mla_is_aligned(rows, type) || rows->batch < 0 || rows->head < 0 || rows->position <= 0) return 0;
  MlaMap *map = &launch->maps[launch->map_count++];
  *map = (MlaMap){.start = rows->start,
                  .type = type,
                  .rank = 4,
                  .dims = {(uint64_t)extent.columns},
                  .box = {MLA_PANEL, (uint32_t)extent.box_positions, 1, 1},
                  .swizzle_bytes = 2 * MLA_PANEL};
  describe_dim(map, 1, extent.positions, rows->position);
  describe_dim(map, 2, extent.heads, rows->head);
  describe_dim(map, 3, extent.batch, rows->batch);
  return 1;
}

void mla_deal(MlaLaunch *launch, int64_t at_once, int64_t blocks, int heads, int64_t head_bytes, int sharing) {
  enum { MANY_ROUNDS = 12, L2_BYTES = 40 << 20 /* that a section of heads may fill */ };
  int64_t section = L2_BYTES / head_bytes * sharing;
  int is_many = blocks > at_once * MANY_ROUNDS;
  launch->grid[0] = (unsigned)(is_many || blocks < at_once ? blocks : at_once);
  launch->arguments.splits = !is_many || section > heads ? heads : section < 1 ? 1 : (int)section;
}
