/* The family that serves every call: float32 multiply-adds, whatever the type, the sizes and the strides are. */
#include "../families.h"
#include "tiles.h"

/* Kernels whose blocks own `rows` rows and `columns` columns of their result: for calls that are fast, and for any. */
typedef struct {
  const char *fast, *any;
  int rows, columns, shared_bytes;
} Tiling;

#define TILING(fast, any, rows, columns) \
  { fast, any, rows, columns, MLA_GENERAL_SHARED_BYTES(rows, columns) }
#define COUNT(array) (sizeof(array) / sizeof *(array))

static const Tiling forward_tilings[] = {
    TILING("mla_attention_64", "mla_attention_any_64", 128, 64),
    TILING("mla_attention_128", "mla_attention_any_128", 128, 128),
    TILING("mla_attention_512", "mla_attention_any_512", 32, 512),
};

static const Tiling dq_tilings[] = {
    TILING("mla_attention_dq_64", "mla_attention_dq_any_64", 128, 64),
    TILING("mla_attention_dq_96", "mla_attention_dq_any_96", 128, 96),
    TILING("mla_attention_dq_128", "mla_attention_dq_any_128", 128, 128),
    TILING("mla_attention_dq_192", "mla_attention_dq_any_192", 128, 192),
    TILING("mla_attention_dq_576", "mla_attention_dq_any_576", 32, 576),
};

/* Columns of keys, beside those of values. */
static const Tiling dkv_tilings[] = {
    TILING("mla_attention_dkv_64_64", "mla_attention_dkv_any_64_64", 128, 64),
    TILING("mla_attention_dkv_96_64", "mla_attention_dkv_any_96_64", 128, 96),
    TILING("mla_attention_dkv_128_128", "mla_attention_dkv_any_128_128", 96, 128),
    TILING("mla_attention_dkv_192_128", "mla_attention_dkv_any_192_128", 96, 192),
};
static const int dkv_value_columns[] = {64, 64, 128, 128};
static const Tiling decode_dkv_tiling = TILING("mla_decode_dkv_576", "mla_decode_dkv_any_576", 32, 576);

/* Four columns are 16 bytes, and offsets of rows and heads fit where the kernels compute them. */
static int is_fast_tensor(const MlaRows *rows) {
  int64_t strides = rows->batch | rows->position | rows->head;
  return (uintptr_t)rows->start % 16 == 0 && strides % 4 == 0 && rows->position <= INT32_MAX && rows->head <= INT32_MAX;
}

/* What operands.cuh asks of a fast call. Tensors that the kernel does not have are empty, and do no harm. */
static int is_fast(const MlaParams *p) {
  const MlaRows *tensors[] = {&p->q,      &p->k,      &p->v,        &p->out,      &p->d_out,    &p->d_q,
                              &p->d_k,    &p->d_v,    &p->q_rope,   &p->k_rope,   &p->d_q_rope, &p->d_k_rope};
  int count = p->dr ? 12 : 8;
  if (p->type != MLA_FLOAT32 || (p->dn | p->dr | p->dv) % MLA_GENERAL_CHUNK != 0) return 0;
  for (int n = 0; n < count; n++)
    if (!is_fast_tensor(tensors[n])) return 0;
  return 1;
}

static int64_t tiles_of(int64_t count, int size) { return (count + size - 1) / size; }

static int64_t query_rows(const MlaParams *p) { return (int64_t)p->batch * p->hq * p->sq; }

static MlaLaunch *launch(MlaPlan *plan, const char *module, const char *function, int64_t blocks,
                         const MlaArguments *arguments) {
  MlaLaunch *added = mla_launch(plan, module, function, arguments);
  added->grid[0] = (unsigned)blocks;
  added->threads = MLA_GENERAL_THREADS;
  return added;
}

static void launch_tiles(MlaPlan *plan, const char *module, const Tiling *tiling, int64_t blocks,
                         const MlaArguments *arguments) {
  const char *function = is_fast(&arguments->params) ? tiling->fast : tiling->any;
  launch(plan, module, function, blocks, arguments)->shared_bytes = (unsigned)tiling->shared_bytes;
}

/* One thread for each of `count` numbers. */
static void launch_numbers(MlaPlan *plan, const char *module, const char *function, int64_t count,
                           const MlaArguments *arguments) {
  launch(plan, module, function, tiles_of(count, MLA_GENERAL_THREADS), arguments);
}

/* The narrowest tiling that takes all columns at once, else the widest. */
static const Tiling *tiling_of(const Tiling *tilings, size_t count, int columns) {
  size_t n = 0;
  while (n + 1 < count && tilings[n].columns < columns) n++;
  return &tilings[n];
}

/* Plans what query_tile.cuh says: `columns` of a result for each row of queries. Where there are fewer blocks than
   multiprocessors they share the keys; returns whether they do. */
static int plan_query_tiles(const MlaDevice *device, MlaPlan *plan, const char *module, const Tiling *tiling,
                            int columns, void *workspace, MlaArguments *arguments) {
  const MlaParams *p = &arguments->params;
  int64_t blocks = tiles_of((int64_t)p->sq * (p->hq / p->hkv), tiling->rows) * p->batch * p->hkv *
                   tiles_of(columns, tiling->columns);
  int64_t splits = device->multiprocessors / blocks, most = tiles_of(p->skv, MLA_GENERAL_WALK);
  if (splits > most) splits = most;
  arguments->splits = splits > 1 ? (int)splits : 1;
  if (arguments->splits > 1) {
    size_t rows = (size_t)splits * (size_t)query_rows(p);
    arguments->partial_out = mla_take(plan, workspace, rows * (size_t)columns * sizeof(float));
    arguments->partial_lse = mla_take(plan, workspace, rows * sizeof(float));
  }
  launch_tiles(plan, module, tiling, blocks * arguments->splits, arguments);
  return arguments->splits > 1;
}

static void plan_forward(const MlaDevice *device, MlaPlan *plan, void *workspace, MlaArguments *arguments) {
  const MlaParams *p = &arguments->params;
  const char *module = "general/mla_attention";
  const Tiling *tiling = tiling_of(forward_tilings, COUNT(forward_tilings), p->dv);
  if (plan_query_tiles(device, plan, module, tiling, p->dv, workspace, arguments))
    launch_numbers(plan, module, "mla_attention_merge", query_rows(p) * p->dv, arguments);
}

static void plan_dq(const MlaDevice *device, MlaPlan *plan, void *workspace, MlaArguments *arguments) {
  const MlaParams *p = &arguments->params;
  const char *module = "general/mla_attention_dq";
  int depth = p->dn + p->dr;
  const Tiling *tiling = tiling_of(dq_tilings, COUNT(dq_tilings), depth);
  if (plan_query_tiles(device, plan, module, tiling, depth, workspace, arguments))
    launch_numbers(plan, module, "mla_attention_dq_sum", query_rows(p) * depth, arguments);
}

static int64_t rope_numbers(const MlaParams *p) { return (int64_t)p->batch * p->skv * p->dr; }

static void launch_rope_sum(MlaPlan *plan, const MlaArguments *arguments) {
  launch_numbers(plan, "general/mla_attention_dkv", "mla_attention_dkv_rope", rope_numbers(&arguments->params), arguments);
}

static void plan_dkv(MlaPlan *plan, void *workspace, MlaArguments *arguments) {
  const MlaParams *p = &arguments->params;
  const char *module = "general/mla_attention_dkv";
  int depth = p->dn + p->dr;
  size_t n = 0;
  while (n + 1 < COUNT(dkv_tilings) && (dkv_tilings[n].columns < depth || dkv_value_columns[n] < p->dv)) n++;
  const Tiling *tiling = p->is_decode ? &decode_dkv_tiling : &dkv_tilings[n];
  int64_t k_parts = tiles_of(depth, tiling->columns);
  int64_t v_parts = tiles_of(p->dv, p->is_decode ? tiling->columns : dkv_value_columns[n]);
  int is_summed = p->dr > 0 && p->hkv > 1;
  int64_t ropes = rope_numbers(p);
  if (is_summed)
    arguments->partial_out = mla_take(plan, workspace, (size_t)p->hkv * (size_t)ropes * sizeof(float));
  int64_t blocks = tiles_of(p->skv, tiling->rows) * p->batch * p->hkv * (k_parts > v_parts ? k_parts : v_parts);
  launch_tiles(plan, module, tiling, blocks, arguments);
  if (is_summed) launch_rope_sum(plan, arguments);
}

int mla_plan_general(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, void *workspace, MlaPlan *plan) {
  MlaArguments arguments = {.params = *p, .splits = 1};
  int has_rows = query_rows(p) > 0, has_keys = p->batch > 0 && p->hkv > 0 && p->skv > 0;
  switch (kernel) {
    case MLA_FORWARD:
      if (has_rows) plan_forward(device, plan, workspace, &arguments);
      break;
    case MLA_DELTA: /* a warp for each row */
      if (has_rows) launch_numbers(plan, "general/mla_delta", "mla_delta", 32 * query_rows(p), &arguments);
      break;
    case MLA_DQ:
      if (has_rows) plan_dq(device, plan, workspace, &arguments);
      break;
    case MLA_DKV:
      if (has_keys)
        plan_dkv(plan, workspace, &arguments);
      else if (rope_numbers(p) > 0) /* a sum over no heads */
        launch_rope_sum(plan, &arguments);
      break;
    case MLA_BACKWARD:
      return mla_plan_general(device, MLA_DQ, p, workspace, plan) && mla_plan_general(device, MLA_DKV, p, workspace, plan);
  }
  return 1;
}
