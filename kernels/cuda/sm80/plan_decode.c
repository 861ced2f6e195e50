/* MLADecode and its gradients. */
#include "decode_tiles.h"
#include "plan_parts.h"

static int ceil_div(int64_t a, int64_t b) { return (int)((a + b - 1) / b); }

static int most_shared_bytes(const MlaDevice *device) {
  if (device->capability == 80 || device->capability == 87) return 163 * 1024;
  return device->capability >= 90 && device->capability < 120 ? 227 * 1024 : 99 * 1024;
}

int mla_splits(const MlaDevice *device, int64_t blocks, int tiles, MlaSplitCosts costs) {
  int best = 1;
  double least = 0;
  for (int splits = 1; splits <= MLA_MERGE_MOST_SPLITS && splits <= tiles; splits++) {
    int rounds = ceil_div(blocks * splits, device->multiprocessors);
    double cost = rounds * (ceil_div(tiles, splits) + costs.block);
    if (splits > 1) cost += costs.merge + costs.split * splits;
    if (splits == 1 || cost < least) best = splits, least = cost;
  }
  return best;
}

/* Those of this folder's kernels. */
static int splits_of(const MlaDevice *device, int64_t blocks, const MlaParams *p) {
  return mla_splits(device, blocks, ceil_div(p->skv, MLA_DECODE_BLOCK_K), (MlaSplitCosts){4, 4, 1 / 16.0});
}

/* Kernels by what is multiplied and what is in memory. */
#define FUNCTIONS(STEM, END) {STEM "_f16" END, STEM "_bf16" END, STEM "_f32_as_f16" END, STEM "_f32_as_bf16" END}

static const char *function_of(const char *const functions[4], const MlaParams *p) {
  return functions[(p->type == MLA_FLOAT32) * 2 + (mla_multiplied_type(p) == MLA_BFLOAT16)];
}

static MlaLaunch *launch_tile(MlaPlan *plan, const char *module, const char *function, const MlaArguments *arguments,
                              int shared_bytes) {
  MlaLaunch *launch = mla_launch(plan, module, function, arguments);
  launch->threads = MLA_DECODE_THREADS;
  launch->shared_bytes = (unsigned)shared_bytes;
  return launch;
}

typedef struct {
  int block_q, shared_bytes;
  const char *functions[4];
} Tile;

#define TILE(BLOCK_Q, STAGES) {BLOCK_Q, MLA_DECODE_SHARED(BLOCK_Q, STAGES), FUNCTIONS("mla_decode", "_" #BLOCK_Q)},
static const Tile tiles[] = {MLA_DECODE_TILES(TILE)};

MlaLaunch *mla_plan_merge(const MlaArguments *arguments, MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  static const char *const functions[] = {
      [MLA_FLOAT32] = "mla_merge_f32", [MLA_FLOAT16] = "mla_merge_f16", [MLA_BFLOAT16] = "mla_merge_bf16"};
  MlaLaunch *launch = mla_launch(plan, "sm80/mla_merge", functions[p->type], arguments);
  int groups = 1;
  while (groups < MLA_MERGE_MOST_GROUPS && groups * MLA_MERGE_BATCH < arguments->splits) groups *= 2;
  launch->grid[0] = (unsigned)ceil_div((int64_t)p->sq * p->hq, MLA_MERGE_WARPS);
  launch->grid[1] = (unsigned)(groups * MLA_DECODE_DN / (8 * 32));
  launch->grid[2] = (unsigned)p->batch;
  launch->threads = 32 * MLA_MERGE_WARPS;
  return launch;
}

static int plan_forward(const MlaDevice *device, const MlaParams *p, void *workspace, MlaPlan *plan) {
  const int rows = p->sq * p->hq, last = sizeof tiles / sizeof *tiles - 1;
  const Tile *tile = tiles;
  while (tile < tiles + last && tile->block_q < rows) tile++;
  if (tile->shared_bytes > most_shared_bytes(device)) return 0;
  const int blocks = ceil_div(rows, tile->block_q);
  MlaArguments arguments = {.params = *p};
  arguments.splits = splits_of(device, (int64_t)blocks * p->batch, p);
  if (arguments.splits > 1) {
    size_t partials = (size_t)p->batch * arguments.splits * rows;
    arguments.partial_out = mla_take(plan, workspace, partials * p->dv * (p->type == MLA_FLOAT32 ? 4 : 2));
    arguments.partial_lse = mla_take(plan, workspace, partials * 4);
  }
  MlaLaunch *launch =
      launch_tile(plan, "sm80/mla_decode", function_of(tile->functions, p), &arguments, tile->shared_bytes);
  launch->grid[0] = (unsigned)blocks;
  launch->grid[1] = (unsigned)arguments.splits;
  launch->grid[2] = (unsigned)p->batch;
  if (arguments.splits > 1) mla_plan_merge(&arguments, plan);
  return 1;
}

static void plan_dq_sum(const MlaArguments *arguments, MlaPlan *plan) {
  enum { THREADS = 128, COLUMNS = 4 };
  const MlaParams *p = &arguments->params;
  static const char *const functions[] = {[MLA_FLOAT32] = "mla_decode_dq_sum_f32",
                                          [MLA_FLOAT16] = "mla_decode_dq_sum_f16",
                                          [MLA_BFLOAT16] = "mla_decode_dq_sum_bf16"};
  MlaLaunch *launch = mla_launch(plan, "sm80/mla_decode_dq", functions[p->type], arguments);
  launch->grid[0] = (unsigned)ceil_div((int64_t)p->sq * p->hq * MLA_DECODE_DQK, THREADS * COLUMNS);
  launch->grid[1] = (unsigned)p->batch;
  launch->threads = THREADS;
}

static int plan_dq(const MlaDevice *device, const MlaParams *p, void *workspace, MlaPlan *plan) {
  static const char *const functions[] = FUNCTIONS("mla_decode_dq", "");
  if (MLA_DECODE_DQ_SHARED > most_shared_bytes(device)) return 0;
  const int rows = p->sq * p->hq, blocks = ceil_div(rows, MLA_DECODE_DQ_BLOCK_Q);
  MlaArguments arguments = {.params = *p};
  arguments.splits = splits_of(device, (int64_t)blocks * p->batch, p);
  if (arguments.splits > 1)
    arguments.partial_out = mla_take(plan, workspace, (size_t)p->batch * arguments.splits * rows * MLA_DECODE_DQK * 4);
  MlaLaunch *launch =
      launch_tile(plan, "sm80/mla_decode_dq", function_of(functions, p), &arguments, MLA_DECODE_DQ_SHARED);
  launch->grid[0] = (unsigned)blocks;
  launch->grid[1] = (unsigned)arguments.splits;
  launch->grid[2] = (unsigned)p->batch;
  if (arguments.splits > 1) plan_dq_sum(&arguments, plan);
  return 1;
}

static int plan_dkv(const MlaDevice *device, const MlaParams *p, MlaPlan *plan) {
  static const char *const functions[] = FUNCTIONS("mla_decode_dkv", "");
  if (MLA_DECODE_DKV_SHARED > most_shared_bytes(device)) return 0;
  MlaArguments arguments = {.params = *p};
  MlaLaunch *launch =
      launch_tile(plan, "sm80/mla_decode_dkv", function_of(functions, p), &arguments, MLA_DECODE_DKV_SHARED);
  launch->grid[0] = (unsigned)ceil_div(p->skv, MLA_DECODE_DKV_BLOCK_K);
  launch->grid[1] = (unsigned)p->batch;
  return 1;
}

int mla_plan_sm80_decode(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, void *workspace, MlaPlan *plan) {
  const MlaRows *rows[] = {&p->q,     &p->q_rope, &p->k,        &p->k_rope, &p->out,
                           &p->d_out, &p->d_q,    &p->d_q_rope, &p->d_k,    &p->d_k_rope};
  if (mla_multiplied_type(p) == MLA_FLOAT32 || p->dn != MLA_DECODE_DN || p->dr != MLA_DECODE_DR) return 0;
  if (p->hkv != 1 || p->batch > 65535) return 0;
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
    if (!mla_is_aligned(rows[i], p->type)) return 0;
  switch (kernel) {
    case MLA_FORWARD:
      return plan_forward(device, p, workspace, plan);
    case MLA_DQ:
      return plan_dq(device, p, workspace, plan);
    case MLA_DKV:
      return plan_dkv(device, p, plan);
    default:
      return 0;
  }
}
