/* The forward of MLAAttention. */
#include "plan_parts.h"
#include "tiles.h"

typedef struct {
  int head_qk, head_v, block_q, block_k, warps;
  const char *f16, *bf16;
} Tile;

#define TILE(HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS)                             \
  {HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS,                                       \
   "mla_attention_f16_" #HEAD_QK "_" #HEAD_V "_" #BLOCK_Q,                         \
   "mla_attention_bf16_" #HEAD_QK "_" #HEAD_V "_" #BLOCK_Q},
static const Tile tiles[] = {MLA_SM80_ATTENTION(TILE)};

static unsigned blocks_of(const Tile *tile, const MlaParams *p) {
  return (unsigned)((p->sq + tile->block_q - 1) / tile->block_q);
}

/* A tile of many rows reads less, one of few leaves fewer multiprocessors without work at the end: where there are few
   blocks the last tile of the head size is taken. */
static const Tile *choose_tile(const MlaDevice *device, const MlaParams *p) {
  const Tile *chosen = NULL;
  for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
    const Tile *tile = &tiles[i];
    if (tile->head_qk != p->dn + p->dr || tile->head_v != p->dv) continue;
    chosen = tile;
    if ((int64_t)blocks_of(tile, p) * p->batch * p->hq >= 3 * device->multiprocessors) break;
  }
  return chosen;
}

int mla_plan_sm80_attention(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace,
                            MlaPlan *plan) {
  const Tile *tile = choose_tile(device, params);
  MlaType type = mla_multiplied_type(params);
  if (kernel != MLA_FORWARD || !tile || type == MLA_FLOAT32 || params->dn % 8 || blocks_of(tile, params) > 65535) return 0;
  MlaArguments arguments = {.params = *params};
  MlaParams *p = &arguments.params;
  if (!mla_operands(plan, workspace, p, type)) return 0;
  MlaLaunch *launch = mla_launch(plan, "sm80/mla_attention", type == MLA_FLOAT16 ? tile->f16 : tile->bf16, &arguments);
  launch->grid[0] = (unsigned)(p->batch * p->hq);
  launch->grid[1] = blocks_of(tile, p);
  launch->threads = (unsigned)tile->warps * 32;
  launch->shared_bytes = (unsigned)((tile->block_q + tile->block_k) * tile->head_qk + tile->block_k * tile->head_v) * 2;
  return 1;
}
