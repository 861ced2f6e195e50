/* The launches of the row kernels. */
#include "../plan.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

static unsigned blocks(int64_t work, int64_t of_block) { return (unsigned)((work + of_block - 1) / of_block); }

static MlaLaunch *launch(MlaPlan *plan, const char *module, const char *function, unsigned grid) {
  MlaLaunch *launch = &plan->launches[plan->count++];
  *launch = (MlaLaunch){.module = module, .function = function, .grid = {grid, 1, 1}, .threads = THREADS};
  return launch;
}

static void plan_norm(MlaRowKernel kernel, const MlaNorm *p, void *workspace, MlaPlan *plan) {
  static const char *const functions[2][2] = {{"norm_forward", "norm_forward_by_4"},
                                              {"norm_backward", "norm_backward_by_4"}};
  int is_backward = kernel == MLA_NORM_BACKWARD;
  const char *function = functions[is_backward][p->columns % 4 == 0];
  MlaNorm call = *p;
  if (!is_backward) {
    launch(plan, "rows/norm", function, blocks(p->rows, WARPS))->row.norm = call;
    return;
  }
  call.gain_parts = mla_take(plan, workspace, sizeof(float) * (size_t)p->parts * (size_t)p->columns);
  if (p->rows) launch(plan, "rows/norm", function, (unsigned)p->parts)->row.norm = call;
  launch(plan, "rows/norm", "norm_gain", blocks(p->columns, 32))->row.norm = call;
}

static void plan_rotary(MlaRowKernel kernel, const MlaRotary *p, MlaPlan *plan) {
  const char *function = kernel == MLA_ROTARY ? "rotary_forward" : "rotary_backward";
  unsigned columns = (unsigned)(p->heads * (p->dn + p->dr));
  MlaLaunch *each_token = launch(plan, "rows/rotary", function, (unsigned)p->tokens);
  each_token->row.rotary = *p;
  if (columns < THREADS) each_token->threads = (columns + 31) / 32 * 32;
}

static void plan_swiglu(MlaRowKernel kernel, const MlaSwiglu *p, MlaPlan *plan) {
  static const char *const functions[2][2] = {{"swiglu_forward", "swiglu_forward_by_4"},
                                              {"swiglu_backward", "swiglu_backward_by_4"}};
  int is_by_4 = p->count % 4 == 0;
  const char *function = functions[kernel == MLA_SWIGLU_BACKWARD][is_by_4];
  launch(plan, "rows/swiglu", function, blocks(p->count, is_by_4 ? 4 * THREADS : THREADS))->row.swiglu = *p;
}

static void plan_cross_entropy(MlaRowKernel kernel, const MlaCrossEntropy *p, void *workspace, MlaPlan *plan) {
  MlaCrossEntropy call = *p;
  if (kernel == MLA_CROSS_ENTROPY_BACKWARD) {
    launch(plan, "rows/cross_entropy", "cross_entropy_backward", blocks(p->rows, WARPS))->row.cross_entropy = call;
    return;
  }
  call.row_losses = mla_take(plan, workspace, sizeof(float) * (size_t)p->rows);
  launch(plan, "rows/cross_entropy", "cross_entropy_forward", blocks(p->rows, WARPS))->row.cross_entropy = call;
  MlaLaunch *mean = launch(plan, "rows/cross_entropy", "cross_entropy_mean", 1);
  mean->threads = 1024;
  mean->row.cross_entropy = call;
}

static void plan_embedding(const MlaEmbedding *p, void *workspace, MlaPlan *plan) {
  enum { MOST_BINS = 1024 }; /* each of which looks through all ids */
  int is_by_4 = p->columns % 4 == 0;
  const char *sum = is_by_4 ? "embedding_sum_by_4" : "embedding_sum";
  MlaEmbedding call = *p;
  call.bin_rows = (p->table_rows + MOST_BINS - 1) / MOST_BINS;
  unsigned bins = blocks(p->table_rows, call.bin_rows), slices = blocks(p->columns, is_by_4 ? 4 * 32 : 32);
  call.order = mla_take(plan, workspace, sizeof *call.order * (size_t)p->tokens);
  call.bins = mla_take(plan, workspace, sizeof *call.bins * (bins + 1));
  launch(plan, "rows/embedding", "embedding_order", bins)->row.embedding = call;
  MlaLaunch *by_warps = launch(plan, "rows/embedding", sum, blocks(p->table_rows, WARPS));
  by_warps->grid[1] = slices;
  by_warps->row.embedding = call;
}

static void plan_adam(const MlaAdam *p, void *workspace, MlaPlan *plan) {
  size_t bytes = sizeof *p->of * (size_t)p->pieces;
  MlaAdam call = *p;
  call.of = mla_take(plan, workspace, bytes);
  call.squares = mla_take(plan, workspace, sizeof(float) * (size_t)p->pieces);
  plan->table = (MlaTable){.from = p->of, .to = (void *)call.of, .bytes = bytes};
  if (p->pieces) launch(plan, "rows/adam", "adam_squares", (unsigned)p->pieces)->row.adam = call;
  MlaLaunch *norm = launch(plan, "rows/adam", "adam_norm", 1);
  norm->threads = 1024;
  norm->row.adam = call;
  if (p->pieces) launch(plan, "rows/adam", "adam_update", (unsigned)p->pieces)->row.adam = call;
}

void mla_plan_rows(const MlaRowCall *call, void *workspace, MlaPlan *plan) {
  plan->count = 0;
  plan->workspace_bytes = 0;
  plan->table.bytes = 0;
  switch (call->kernel) {
    case MLA_NORM:
    case MLA_NORM_BACKWARD: plan_norm(call->kernel, &call->arguments.norm, workspace, plan); break;
    case MLA_ROTARY:
    case MLA_ROTARY_BACKWARD: plan_rotary(call->kernel, &call->arguments.rotary, plan); break;
    case MLA_SWIGLU:
    case MLA_SWIGLU_BACKWARD: plan_swiglu(call->kernel, &call->arguments.swiglu, plan); break;
    case MLA_CROSS_ENTROPY:
    case MLA_CROSS_ENTROPY_BACKWARD:
      plan_cross_entropy(call->kernel, &call->arguments.cross_entropy, workspace, plan);
      break;
    case MLA_EMBEDDING_BACKWARD: plan_embedding(&call->arguments.embedding, workspace, plan); break;
    case MLA_ADAM_NORM: break; /* a part of MLA_ADAM, and no call by itself */
    case MLA_ADAM: plan_adam(&call->arguments.adam, workspace, plan); break;
  }
}
