/* The forward of MLAAttention. */
#include "plan_parts.h"
#include "tiles.h"

typedef struct {
  MlaPrecision as;
  int head_qk, head_v, block_q, block_k, warps;
  const char *function;
} Tile;

/* As the macro ENTRY of the .cu file names them. */
#define TILE(AS, TYPE, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS) \
  {AS, HEAD_QK, HEAD_V, BLOCK_Q, BLOCK_K, WARPS,                 \
   "mla_attention_" TYPE "_" #HEAD_QK "_" #HEAD_V "_" #BLOCK_Q "_" #BLOCK_K},
#define HALF_TILES(...) TILE(MLA_AS_FLOAT16, "f16", __VA_ARGS__) TILE(MLA_AS_BFLOAT16, "bf16", __VA_ARGS__)
#define TF32_TILE(...) TILE(MLA_AS_TF32, "tf32", __VA_ARGS__)
#define F32_TILE(...) TILE(MLA_AS_FLOAT32, "f32", __VA_ARGS__)
static const Tile tiles[] = {MLA_SM80_ATTENTION(HALF_TILES) MLA_SM80_ATTENTION_TF32(TF32_TILE)
                                 MLA_SM80_ATTENTION_F32(F32_TILE)};

static unsigned blocks_of(const Tile *tile, const MlaParams *p) {
  return (unsigned)((p->sq + tile->block_q - 1) / tile->block_q);
}

static unsigned bytes_of(const Tile *tile) {
  int numbers = (tile->block_q + tile->block_k) * tile->head_qk + tile->block_k * tile->head_v;
  return (unsigned)numbers * mla_number_bytes(tile->as);
}

/* A tile of many rows reads less, one of few leaves fewer multiprocessors without work at the end: where there are few
   blocks the last tile of the head size is taken. */
static const Tile *choose_tile(const MlaDevice *device, const MlaParams *p) {
  int half_blocks = mla_multiplied_as(p) == MLA_AS_FLOAT32 ? 3 : 6; /* that are enough for a multiprocessor */
  const Tile *chosen = NULL;
  for (size_t i = 0; i < sizeof tiles / sizeof *tiles; i++) {
    const Tile *tile = &tiles[i];
    if (tile->as != mla_multiplied_as(p) || tile->head_qk != p->dn + p->dr || tile->head_v != p->dv) continue;
    if (bytes_of(tile) > mla_shared_bytes(device)) continue;
    chosen = tile;
    if ((int64_t)blocks_of(tile, p) * p->batch * p->hq * 2 >= half_blocks * device->multiprocessors) break;
  }
  return chosen;
}

int mla_plan_sm80_attention(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace,
                            MlaPlan *plan) {
  const Tile *tile = choose_tile(device, params);
  if (kernel != MLA_FORWARD || !tile || params->dn % 8 || blocks_of(tile, params) > 65535) return 0;
  MlaArguments arguments = {.params = *params};
  MlaParams *p = &arguments.params;
  int is_split = mla_multiplied_as(p) == MLA_AS_FLOAT32;
  if (!(is_split ? mla_split_operands(plan, workspace, &arguments, MLA_SPLIT_IN_ROWS)
                 : mla_operands(plan, workspace, p, mla_multiplied_type(p), "sm80/convert", MLA_CONVERT_Q)))
    return 0;
  MlaLaunch *launch = mla_launch(plan, "sm80/mla_attention", tile->function, &arguments);
  launch->grid[0] = (unsigned)(p->batch * p->hq);
  launch->grid[1] = blocks_of(tile, p);
  launch->threads = (unsigned)tile->warps * 32;
  launch->shared_bytes = bytes_of(tile);
  return 1;
}
