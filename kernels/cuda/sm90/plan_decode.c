/* MLADecode with a 16-bit cache. float32, and the gradients, are sm80's. */
#include "plan_parts.h"

enum { DN = 512, DR = 64, ROWS = 64, BLOCK_K = 64 };

/* Queries, a tile of keys and two floats for each row of either consumer, barriers. */
enum { SHARED_BYTES = (ROWS + 2 * BLOCK_K) * (DN + DR) * 2 + 2 * 2 * ROWS * 4 + 512 };

static int ceil_div(int a, int b) { return (a + b - 1) / b; }

/* A box has ROWS heads, or all heads of as many positions as there is room for. One head, or one position, may have any
   stride. */
static int add_query_map(MlaLaunch *launch, const MlaParams *p, const MlaRows *rows, int columns) {
  MlaRows by_heads = {rows->start, rows->batch, p->hq == 1 ? 8 : rows->head, p->sq == 1 ? 0 : rows->position};
  int heads = p->hq < ROWS ? p->hq : ROWS;
  if (p->sq > 1 && rows->position <= 0) return 0;
  if (!mla_add_map(launch, p->type, &by_heads, (MlaExtent){columns, p->hq, p->sq, p->batch, heads})) return 0;
  launch->maps[launch->map_count - 1].box[2] = (uint32_t)(ROWS / heads);
  return 1;
}
static int add_key_map(MlaLaunch *launch, const MlaParams *p, const MlaRows *rows, int columns) {
  return mla_add_map(launch, p->type, rows, (MlaExtent){columns, p->skv, 1, p->batch, BLOCK_K});
}

int mla_plan_sm90_decode(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, void *workspace, MlaPlan *plan) {
  if (kernel != MLA_FORWARD || p->type == MLA_FLOAT32 || p->dn != DN || p->dr != DR || p->hkv != 1 || p->batch > 65535 ||
      !mla_is_aligned(&p->out, p->type))
    return 0;
  int blocks = p->hq < ROWS ? ceil_div(p->sq, ROWS / p->hq) : p->sq * ceil_div(p->hq, ROWS);
  MlaArguments arguments = {.params = *p};
  arguments.splits =
      mla_splits(device, (int64_t)blocks * p->batch, ceil_div(p->skv, BLOCK_K), (MlaSplitCosts){2, 2, 0.05});
  if (arguments.splits > 1) {
    size_t partials = (size_t)p->batch * arguments.splits * p->sq * p->hq;
    arguments.partial_out = mla_take(plan, workspace, partials * DN * 2);
    arguments.partial_lse = mla_take(plan, workspace, partials * sizeof(float));
  }
  MlaLaunch *launch = mla_launch(plan, "sm90/mla_decode", p->type == MLA_FLOAT16 ? "mla_decode_f16" : "mla_decode_bf16",
                                 &arguments);
  launch->grid[0] = (unsigned)blocks;
  launch->grid[1] = (unsigned)arguments.splits;
  launch->grid[2] = (unsigned)p->batch;
  launch->threads = 3 * MLA_WARPGROUP;
  launch->shared_bytes = SHARED_BYTES;
  if (!add_query_map(launch, p, &p->q, DN) || !add_query_map(launch, p, &p->q_rope, DR) ||
      !add_key_map(launch, p, &p->k, DN) || !add_key_map(launch, p, &p->k_rope, DR))
    return 0;
  if (arguments.splits > 1) {
    MlaLaunch *merge = mla_plan_merge(&arguments, plan);
    merge->module = "sm90/mla_merge";
    merge->is_early = 1;
  }
  return 1;
}
