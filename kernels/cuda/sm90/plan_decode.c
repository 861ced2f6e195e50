/* MLADecode: 16-bit caches, for 64 heads at a time. Others, and the gradients, are sm80's. */
#include "plan_parts.h"

enum { DN = 512, DR = 64, HEADS = 64, BLOCK_K = 64 };

/* Queries, two tiles of keys, weights, a float for each row of two warpgroups, barriers. */
enum { SHARED_BYTES = 3 * 64 * (DN + DR) * 2 + HEADS * BLOCK_K * 2 + 2 * HEADS * 4 + 64 };

/* The heads are the rows of boxes. */
static int add_query_map(MlaLaunch *launch, const MlaParams *p, const MlaRows *rows, int columns) {
  MlaRows by_heads = {rows->start, rows->batch, rows->head, p->sq == 1 ? 0 : rows->position};
  if (p->sq > 1 && rows->position <= 0) return 0;
  return mla_add_map(launch, p->type, &by_heads, (MlaExtent){columns, p->hq, p->sq, p->batch, HEADS});
}
static int add_key_map(MlaLaunch *launch, const MlaParams *p, const MlaRows *rows, int columns) {
  return mla_add_map(launch, p->type, rows, (MlaExtent){columns, p->skv, 1, p->batch, BLOCK_K});
}

int mla_plan_sm90_decode(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, void *workspace, MlaPlan *plan) {
  if (kernel != MLA_FORWARD || p->type == MLA_FLOAT32 || p->dn != DN || p->dr != DR || p->hq % HEADS || p->hkv != 1 ||
      p->batch > 65535 || !mla_is_aligned(&p->out, p->type))
    return 0;
  int64_t rows = (int64_t)p->sq * p->hq;
  MlaArguments arguments = {.params = *p};
  arguments.splits =
      mla_splits(device, rows / HEADS * p->batch, (p->skv + BLOCK_K - 1) / BLOCK_K, (MlaSplitCosts){2, 2, 0.05});
  if (arguments.splits > 1) {
    size_t partials = (size_t)(p->batch * arguments.splits * rows);
    arguments.partial_out = mla_take(plan, workspace, partials * DN * 2);
    arguments.partial_lse = mla_take(plan, workspace, partials * sizeof(float));
  }
  MlaLaunch *launch = mla_launch(plan, "sm90/mla_decode", p->type == MLA_FLOAT16 ? "mla_decode_f16" : "mla_decode_bf16",
                                 &arguments);
  launch->grid[0] = (unsigned)(rows / HEADS);
  launch->grid[1] = (unsigned)arguments.splits;
  launch->grid[2] = (unsigned)p->batch;
  launch->threads = 3 * MLA_WARPGROUP;
  launch->shared_bytes = SHARED_BYTES;
  if (!add_query_map(launch, p, &p->q, DN) || !add_query_map(launch, p, &p->q_rope, DR) ||
      !add_key_map(launch, p, &p->k, DN) || !add_key_map(launch, p, &p->k_rope, DR))
    return 0;
  if (arguments.splits > 1) mla_plan_merge(&arguments, plan);
  return 1;
}
