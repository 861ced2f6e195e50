/* float32 as split halves: the forward and the gradients of MLAAttention. */
#include "plan_parts.h"
#include "tiles.h"

/* A kernel for some heads. `block` are the rows that stay in a block, `walked` those of a tile that it walks over. */
typedef struct {
  int head_qk, head_v, block, walked, shared_bytes;
  const char *name;
} Form;

/* The rows of a tile, or of several, and what a kernel holds beside tiles. */
#define BYTES(ROWS, COLUMNS) ((ROWS) * (COLUMNS) * (int)sizeof(float))
enum { BARRIER_BYTES = 256, THREADS = 3 * MLA_WARPGROUP };

#define FORWARD(QK, V, BLOCK_Q, BLOCK_K, K_STAGES, V_STAGES)                                     \
  {QK, V, BLOCK_Q, BLOCK_K,                                                                      \
   BYTES(BLOCK_Q + K_STAGES * BLOCK_K, QK) + BYTES(V_STAGES * BLOCK_K, V) + BARRIER_BYTES,       \
   "mla_attention_f32_" #QK "_" #V "_" #BLOCK_Q},
static const Form forward_forms[] = {MLA_SM90_ATTENTION_F32(FORWARD) {0}};

#define DQ(QK, V, BLOCK_Q, BLOCK_K, K_STAGES, V_STAGES)                                                \
  {QK, V, BLOCK_Q, BLOCK_K,                                                                            \
   BYTES(BLOCK_Q + K_STAGES * BLOCK_K, QK) + BYTES(BLOCK_Q + V_STAGES * BLOCK_K, V) + BARRIER_BYTES,   \
   "mla_attention_dq_f32_" #QK "_" #V "_" #BLOCK_Q},
static const Form dq_forms[] = {MLA_SM90_ATTENTION_DQ_F32(DQ) {0}};

/* With lse, delta and factors of each tile of queries. */
#define DKV(QK, V, BLOCK_Q, BLOCK_K, Q_STAGES, D_OUT_STAGES)                                                 \
  {QK, V, BLOCK_K, BLOCK_Q,                                                                                  \
   BYTES(BLOCK_K + Q_STAGES * BLOCK_Q, QK) + BYTES(BLOCK_K + D_OUT_STAGES * BLOCK_Q, V) +                    \
       BYTES(Q_STAGES, 2 * BLOCK_Q + BLOCK_K / 16) + BARRIER_BYTES,                                          \
   "mla_attention_dkv_f32_" #QK "_" #V "_" #BLOCK_K},
static const Form dkv_forms[] = {MLA_SM90_ATTENTION_DKV_F32(DKV) {0}};

static int64_t blocks_of(int rows, const Form *form) { return (rows + form->block - 1) / form->block; }

/* The first form whose blocks are enough for one and a half rounds of the GPU, so that long walks and short ones make up for
   each other, or the last. */
static const Form *choose(const Form *forms, const MlaDevice *device, const MlaParams *p, int rows, int heads) {
  const Form *chosen = NULL;
  for (const Form *form = forms; form->name; form++) {
    if (form->head_qk != p->dn + p->dr || form->head_v != p->dv) continue;
    chosen = form;
    if (2 * blocks_of(rows, form) * p->batch * heads >= 3 * device->multiprocessors) break;
  }
  return chosen;
}

/* Adds the map of split halves in planes; there are two of each head. */
static int add_map(MlaLaunch *launch, MlaRows rows, MlaExtent extent) {
  rows.head /= 2;
  extent.heads *= 2;
  return mla_add_map(launch, MLA_FLOAT16, &rows, extent);
}

/* q, k, v and, where there is one, d_out. */
static MlaLaunch *launch_form(MlaPlan *plan, const char *module, const Form *form, const MlaArguments *arguments,
                              int query_rows, int key_rows) {
  const MlaParams *p = &arguments->params;
  MlaLaunch *launch = mla_launch(plan, module, form->name, arguments);
  launch->threads = THREADS;
  launch->shared_bytes = (unsigned)form->shared_bytes;
  MlaExtent queries = {p->dn + p->dr, p->sq, p->hq, p->batch, query_rows}, d_out = queries;
  MlaExtent keys = {p->dn + p->dr, p->skv, p->hkv, p->batch, key_rows}, values = keys;
  values.columns = d_out.columns = p->dv;
  int are_added = add_map(launch, p->q, queries) && add_map(launch, p->k, keys) && add_map(launch, p->v, values) &&
                  (!p->d_out.start || add_map(launch, p->d_out, d_out));
  return are_added ? launch : NULL;
}

static int64_t row_bytes(const Form *form) { return BYTES(1, form->head_qk + form->head_v); }

/* The forward and dQ, whose parts are blocks of queries. The launch before is the splitting. */
static int launch_queries(MlaPlan *plan, const char *module, const Form *form, const MlaDevice *device,
                          const MlaArguments *arguments) {
  const MlaParams *p = &arguments->params;
  MlaLaunch *launch = launch_form(plan, module, form, arguments, form->block, form->walked);
  if (!launch) return 0;
  int heads = p->batch * p->hq;
  launch->is_early = 1;
  mla_deal(launch, device->multiprocessors, blocks_of(p->sq, form) * heads, heads, p->skv * row_bytes(form),
           p->hq / p->hkv);
  return 1;
}

static int plan_forward(const MlaDevice *device, const MlaArguments *arguments, MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  const Form *form = choose(forward_forms, device, p, p->sq, p->hq);
  return form && launch_queries(plan, "sm90/mla_attention_split", form, device, arguments);
}

static int plan_dq(const MlaDevice *device, const MlaArguments *arguments, MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  const Form *form = choose(dq_forms, device, p, p->sq, p->hq);
  return form && mla_is_aligned(&p->d_q, p->type) && mla_is_aligned(&p->d_q_rope, p->type) &&
         launch_queries(plan, "sm90/mla_attention_dq_split", form, device, arguments);
}

/* After dQ, takes over multiprocessors that dQ leaves: it waits for nothing. */
static int plan_dkv(const MlaDevice *device, MlaArguments *arguments, int is_after_dq, void *workspace, MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  const Form *form = choose(dkv_forms, device, p, p->skv, p->hkv);
  if (!form || !mla_is_aligned(&p->d_k, p->type) || !mla_is_aligned(&p->d_k_rope, p->type) ||
      !mla_is_aligned(&p->d_v, p->type))
    return 0;
  int is_summed = mla_take_rope_parts(plan, workspace, arguments);
  MlaLaunch *launch =
      launch_form(plan, "sm90/mla_attention_dkv_split", form, arguments, form->walked, form->block);
  if (!launch) return 0;
  launch->is_early = is_after_dq;
  int heads = p->batch * p->hkv, sharing = p->hq / p->hkv;
  mla_deal(launch, device->multiprocessors, blocks_of(p->skv, form) * heads, heads, p->sq * row_bytes(form) * sharing, 1);
  if (is_summed) mla_plan_rope_sum(arguments, plan);
  return 1;
}

/* MLA_BACKWARD splits its operands once for both. */
int mla_plan_sm90_split(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, void *workspace, MlaPlan *plan) {
  MlaArguments arguments = {.params = *p};
  if (!mla_split_operands(plan, workspace, &arguments, MLA_SPLIT_IN_PLANES)) return 0;
  if (kernel == MLA_FORWARD) return plan_forward(device, &arguments, plan);
  return (kernel == MLA_DKV || plan_dq(device, &arguments, plan)) &&
         (kernel == MLA_DQ || plan_dkv(device, &arguments, kernel == MLA_BACKWARD, workspace, plan));
}
