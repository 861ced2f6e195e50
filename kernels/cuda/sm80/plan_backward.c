/* The backward of MLAAttention. */
#include "plan_parts.h"
#include "tiles.h"

typedef struct {
  MlaPrecision as;
  int head_qk, head_v, block, walked;
  const char *dq, *dkv; /* functions */
} Tile;

/* As the macro ENTRY of the .cu files names them. */
#define NAME(KERNEL, TYPE, HEAD_QK, HEAD_V, BLOCK, WALKED) \
  "mla_attention_" KERNEL "_" TYPE "_" #HEAD_QK "_" #HEAD_V "_" #BLOCK "_" #WALKED
#define TILE(AS, TYPE, HEAD_QK, HEAD_V, BLOCK, WALKED) \
  {AS, HEAD_QK, HEAD_V, BLOCK, WALKED,                 \
   NAME("dq", TYPE, HEAD_QK, HEAD_V, BLOCK, WALKED),   \
   NAME("dkv", TYPE, HEAD_QK, HEAD_V, BLOCK, WALKED)},
#define HALF_TILES(...) TILE(MLA_AS_FLOAT16, "f16", __VA_ARGS__) TILE(MLA_AS_BFLOAT16, "bf16", __VA_ARGS__)
#define TF32_TILE(...) TILE(MLA_AS_TF32, "tf32", __VA_ARGS__)
#define F32_TILE(...) TILE(MLA_AS_FLOAT32, "f32", __VA_ARGS__)
static const Tile tiles[] = {MLA_SM80_BACKWARD(HALF_TILES) MLA_SM80_BACKWARD_TF32(TF32_TILE)
                                 MLA_SM80_BACKWARD_F32(F32_TILE)};

static unsigned blocks_of(int64_t count, int each) { return (unsigned)((count + each - 1) / each); }

static unsigned bytes_of_rows(const Tile *tile, int rows) {
  return (unsigned)(rows * (tile->head_qk + tile->head_v)) * mla_number_bytes(tile->as);
}

/* Of warps: they own 32 rows, or 16 of floats. */
static unsigned pairs_of(const Tile *tile) { return (unsigned)tile->block / (mla_number_bytes(tile->as) == 4 ? 16 : 32); }

/* dS, or P. */
static unsigned exchange_bytes(const Tile *tile) {
  return (unsigned)(tile->block * tile->walked) * mla_number_bytes(tile->as);
}

/* The block's rows, two tiles of those that it walks over, dS, and two floats of each pair of warps. */
static unsigned dq_bytes(const Tile *tile) {
  return bytes_of_rows(tile, tile->block) + 2 * bytes_of_rows(tile, tile->walked) + exchange_bytes(tile) +
         pairs_of(tile) * 2 * (unsigned)sizeof(float);
}
/* The same with P, and lse and delta of the walked rows. */
static unsigned dkv_bytes(const Tile *tile) {
  return dq_bytes(tile) + exchange_bytes(tile) + 2 * 2 * (unsigned)tile->walked * (unsigned)sizeof(float);
}

/* Of the tiles that fit, the first whose blocks fill the GPU, those of floats one and a half times, or else the first of the
   smallest blocks. */
static const Tile *choose_tile(unsigned bytes_of(const Tile *), const MlaDevice *device, const MlaParams *p, int rows,
                               int heads) {
  unsigned most_bytes = mla_shared_bytes(device);
  int enough = device->multiprocessors * (mla_number_bytes(mla_multiplied_as(p)) == 4 ? 3 : 2) / 2;
  const Tile *chosen = NULL;
  for (const Tile *tile = tiles; tile < tiles + sizeof tiles / sizeof *tiles; tile++) {
    if (tile->as != mla_multiplied_as(p) || tile->head_qk != p->dn + p->dr || tile->head_v != p->dv) continue;
    if (bytes_of(tile) > most_bytes) continue;
    if (chosen && tile->block >= chosen->block) continue;
    chosen = tile;
    if ((int64_t)blocks_of(rows, tile->block) * p->batch * heads >= enough) break;
  }
  return chosen && blocks_of(rows, chosen->block) <= 65535 ? chosen : NULL;
}

static void launch_tiles(MlaPlan *plan, const char *module, const char *function, const Tile *tile, int rows, int heads,
                         unsigned bytes, const MlaArguments *arguments) {
  MlaLaunch *launch = mla_launch(plan, module, function, arguments);
  launch->grid[0] = (unsigned)(arguments->params.batch * heads);
  launch->grid[1] = blocks_of(rows, tile->block);
  launch->threads = pairs_of(tile) * 64;
  launch->shared_bytes = bytes;
}

static int plan_delta(const MlaParams *p, MlaPlan *plan) {
  enum { THREADS = 256 };
  static const char *const functions[] = {"mla_delta_f32", "mla_delta_f16", "mla_delta_bf16"};
  int numbers = p->type == MLA_FLOAT32 ? 4 : 8;
  int64_t rows = (int64_t)p->batch * p->hq * p->sq;
  if (rows == 0 || p->dv % numbers || !mla_is_aligned(&p->out, p->type) || !mla_is_aligned(&p->d_out, p->type)) return 0;
  MlaArguments arguments = {.params = *p, .splits = 1};
  while (arguments.splits < 32 && arguments.splits < p->dv / numbers) arguments.splits *= 2;
  MlaLaunch *launch = mla_launch(plan, "sm80/mla_delta", functions[p->type], &arguments);
  launch->threads = THREADS;
  launch->grid[0] = blocks_of(rows, THREADS / arguments.splits);
  return 1;
}

static int plan_dq(const MlaDevice *device, const MlaArguments *arguments, MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  const Tile *tile = choose_tile(dq_bytes, device, p, p->sq, p->hq);
  if (!tile || !mla_is_aligned(&p->d_q, p->type) || !mla_is_aligned(&p->d_q_rope, p->type)) return 0;
  launch_tiles(plan, "sm80/mla_attention_dq", tile->dq, tile, p->sq, p->hq, dq_bytes(tile), arguments);
  return 1;
}

static int64_t rope_numbers(const MlaParams *p) { return (int64_t)p->batch * p->skv * p->dr; }

int mla_take_rope_parts(MlaPlan *plan, void *workspace, MlaArguments *arguments) {
  const MlaParams *p = &arguments->params;
  if (!p->dr || p->hkv == 1 || p->d_k_rope.head) return 0;
  arguments->partial_out = mla_take(plan, workspace, (size_t)(rope_numbers(p) * p->hkv) * sizeof(float));
  return 1;
}

void mla_plan_rope_sum(const MlaArguments *arguments, MlaPlan *plan) {
  enum { THREADS = 256, NUMBERS = 4 };
  MlaLaunch *launch = mla_launch(plan, "sm80/mla_attention_dkv", "mla_attention_dkv_rope", arguments);
  launch->threads = THREADS;
  launch->grid[0] = blocks_of(rope_numbers(&arguments->params), THREADS * NUMBERS);
}

static int plan_dkv(const MlaDevice *device, MlaArguments *arguments, void *workspace, MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  const Tile *tile = choose_tile(dkv_bytes, device, p, p->skv, p->hkv);
  if (!tile || !mla_is_aligned(&p->d_k, p->type) || !mla_is_aligned(&p->d_k_rope, p->type) ||
      !mla_is_aligned(&p->d_v, p->type))
    return 0;
  int is_summed = mla_take_rope_parts(plan, workspace, arguments);
  launch_tiles(plan, "sm80/mla_attention_dkv", tile->dkv, tile, p->skv, p->hkv, dkv_bytes(tile), arguments);
  if (is_summed) mla_plan_rope_sum(arguments, plan);
  return 1;
}

/* MLA_BACKWARD converts its operands once for both. */
static int plan_gradients(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, void *workspace,
                          MlaPlan *plan) {
  MlaArguments arguments = {.params = *p};
  int is_split = mla_multiplied_as(p) == MLA_AS_FLOAT32;
  return (is_split ? mla_split_operands(plan, workspace, &arguments, MLA_SPLIT_IN_ROWS)
                   : mla_gradient_operands(plan, workspace, &arguments, mla_multiplied_type(p), "sm80/convert")) &&
         (kernel == MLA_DKV || plan_dq(device, &arguments, plan)) &&
         (kernel == MLA_DQ || plan_dkv(device, &arguments, workspace, plan));
}

int mla_plan_sm80_backward(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace,
                           MlaPlan *plan) {
  if (kernel == MLA_DELTA) return plan_delta(params, plan);
  return plan_gradients(device, kernel, params, workspace, plan);
}
