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
