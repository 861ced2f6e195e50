/* wgmma and TMA on sm_90: attention whose tensors the copy engine can read, converted first where they are float32. */
#include "plan_parts.h"
#include "tiles.h"

typedef struct {
  int head_qk, head_v, block_q, block_k, threads, blocks_per_multiprocessor, has_d_out, shared_bytes;
  const char *names[4]; /* of the kernels for half and bfloat16, then of those that write float32 */
} Form;

#define NAMES(KERNEL, SIZES) \
  {KERNEL "_f16_" SIZES, KERNEL "_bf16_" SIZES, KERNEL "_f16_f32_" SIZES, KERNEL "_bf16_f32_" SIZES}

/* What a kernel holds: tiles, and its barriers. */
#define TILE_BYTES(ROWS, COLUMNS) ((ROWS) * (COLUMNS)*2)
#define BARRIER_BYTES 256

#define FORWARD(QK, V, BLOCK_Q, BLOCK_K, STAGES, BLOCKS)                           \
  {QK, V, BLOCK_Q, BLOCK_K, MLA_WARPGROUP + 2 * BLOCK_Q, BLOCKS, 0,                \
   TILE_BYTES(BLOCK_Q, QK) + STAGES * TILE_BYTES(BLOCK_K, QK + V) + BARRIER_BYTES, \
   NAMES("mla_attention", #QK "_" #V "_" #BLOCK_Q)},
static const Form forward_forms[] = {MLA_SM90_ATTENTION(FORWARD)};

#define DQ(QK, V, BLOCK_Q, BLOCK_K, K_STAGES, V_STAGES)                                                                \
  {QK, V, BLOCK_Q, BLOCK_K, MLA_WARPGROUP + 2 * BLOCK_Q, 1, 1,                                                         \
   TILE_BYTES(BLOCK_Q, QK + V) + K_STAGES * TILE_BYTES(BLOCK_K, QK) + V_STAGES * TILE_BYTES(BLOCK_K, V) + BARRIER_BYTES, \
   NAMES("mla_attention_dq", #QK "_" #V)},
static const Form dq_forms[] = {MLA_SM90_ATTENTION_DQ(DQ)};

/* With lse and delta of each tile of queries. */
#define DKV(QK, V, BLOCK_Q, BLOCK_K, Q_STAGES, D_OUT_STAGES)                                                \
  {QK, V, BLOCK_Q, BLOCK_K, MLA_WARPGROUP + 2 * BLOCK_K, 1, 1,                                              \
   TILE_BYTES(BLOCK_K, QK + V) + Q_STAGES * (TILE_BYTES(BLOCK_Q, QK) + 2 * BLOCK_Q * (int)sizeof(float)) + \
       D_OUT_STAGES * TILE_BYTES(BLOCK_Q, V) + BARRIER_BYTES,                                               \
   NAMES("mla_attention_dkv", #QK "_" #V)},
static const Form dkv_forms[] = {MLA_SM90_ATTENTION_DKV(DKV)};

static int in_panels(int columns) { return (columns + MLA_PANEL - 1) / MLA_PANEL * MLA_PANEL; }
static int64_t blocks_of(int64_t rows, int each) { return (rows + each - 1) / each; }

/* The last form for these heads whose blocks are too few is better than none. */
static const Form *choose(const Form *forms, size_t count, const MlaDevice *device, const MlaParams *p) {
  const Form *chosen = NULL;
  for (const Form *form = forms; form < forms + count; form++) {
    if (form->head_qk != in_panels(p->dn) + in_panels(p->dr) || form->head_v != in_panels(p->dv)) continue;
    chosen = form;
    if (2 * blocks_of(p->sq, form->block_q) * p->batch * p->hq > device->multiprocessors) break;
  }
  return chosen;
}
#define CHOOSE(FORMS, DEVICE, PARAMS) choose(FORMS, sizeof FORMS / sizeof *FORMS, DEVICE, PARAMS)

/* ---- launches ---- */

/* During it, what reads its results is launched. */
static const char conversion[] = "sm90/convert";

static int64_t at_once(const MlaDevice *device, const Form *form) {
  return (int64_t)device->multiprocessors * form->blocks_per_multiprocessor;
}
/* Of the two tensors that are walked over. */
static int64_t row_bytes(const Form *form) { return (form->head_qk + form->head_v) * 2; }

/* q, q_rope, k, k_rope, v and, for gradients, d_out. Not read are those of rope where there is none, and those of q in a
   forward that converts its queries itself: a map of another tensor stands there. */
static int add_maps(MlaLaunch *launch, const MlaParams *p, MlaType type, const Form *form) {
  MlaExtent queries = {p->dn, p->sq, p->hq, p->batch, form->block_q};
  MlaExtent keys = {p->dn, p->skv, p->hkv, p->batch, form->block_k}, values = keys, d_out = queries;
  MlaExtent rope_queries = queries, rope_keys = keys;
  if (p->dr) rope_queries.columns = rope_keys.columns = p->dr;
  values.columns = d_out.columns = p->dv;
  int has_queries = p->type == type || form->has_d_out;
  const MlaRows *q_rope = p->dr ? &p->q_rope : &p->q;
  return mla_add_map(launch, type, has_queries ? &p->q : &p->k, has_queries ? queries : keys) &&
         mla_add_map(launch, type, has_queries ? q_rope : &p->k, has_queries ? rope_queries : keys) &&
         mla_add_map(launch, type, &p->k, keys) &&
         mla_add_map(launch, type, p->dr ? &p->k_rope : &p->k, rope_keys) &&
         mla_add_map(launch, type, &p->v, values) && (!form->has_d_out || mla_add_map(launch, type, &p->d_out, d_out));
}

static MlaLaunch *launch_form(MlaPlan *plan, const char *module, const Form *form, const MlaArguments *arguments,
                              MlaType type) {
  const MlaParams *p = &arguments->params;
  const char *name = form->names[(type == MLA_BFLOAT16) + 2 * (p->type == MLA_FLOAT32)];
  MlaLaunch *launch = mla_launch(plan, module, name, arguments);
  launch->threads = (unsigned)form->threads;
  launch->shared_bytes = (unsigned)form->shared_bytes;
  return add_maps(launch, p, type, form) ? launch : NULL;
}

/* The forward and dQ, whose parts are blocks of queries. */
static int launch_queries(MlaPlan *plan, const char *module, const Form *form, const MlaDevice *device,
                          const MlaArguments *arguments, MlaType type) {
  const MlaParams *p = &arguments->params;
  MlaLaunch *launch = launch_form(plan, module, form, arguments, type);
  if (!launch) return 0;
  int heads = p->batch * p->hq;
  launch->is_early = plan->count > 1; /* delta, or the conversion, is before it */
  mla_deal(launch, at_once(device, form), blocks_of(p->sq, form->block_q) * heads, heads, p->skv * row_bytes(form),
           p->hq / p->hkv);
  return 1;
}

static int plan_forward(const MlaDevice *device, const MlaParams *params, MlaType type, void *workspace,
                        MlaPlan *plan) {
  const Form *form = CHOOSE(forward_forms, device, params);
  MlaArguments arguments = {.params = *params};
  return form && mla_operands(plan, workspace, &arguments.params, type, conversion, MLA_CONVERT_K_ROPE) &&
         launch_queries(plan, "sm90/mla_attention", form, device, &arguments, type);
}

static int plan_dq(const MlaDevice *device, const MlaArguments *arguments, MlaType type, MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  const Form *form = CHOOSE(dq_forms, device, p);
  return form && mla_is_aligned(&p->d_q, p->type) && mla_is_aligned(&p->d_q_rope, p->type) &&
         launch_queries(plan, "sm90/mla_attention_dq", form, device, arguments, type);
}

/* After dQ, takes over multiprocessors that dQ leaves: it waits for nothing. */
static int plan_dkv(const MlaDevice *device, MlaArguments *arguments, MlaType type, int is_after_dq, void *workspace,
                    MlaPlan *plan) {
  const MlaParams *p = &arguments->params;
  const Form *form = CHOOSE(dkv_forms, device, p);
  if (!form || !mla_is_aligned(&p->d_k, p->type) || !mla_is_aligned(&p->d_k_rope, p->type) ||
      !mla_is_aligned(&p->d_v, p->type))
    return 0;
  int is_summed = mla_take_rope_parts(plan, workspace, arguments);
  MlaLaunch *launch = launch_form(plan, "sm90/mla_attention_dkv", form, arguments, type);
  if (!launch) return 0;
  launch->is_early = is_after_dq;
  int heads = p->batch * p->hkv, sharing = p->hq / p->hkv;
  mla_deal(launch, at_once(device, form), blocks_of(p->skv, form->block_k) * heads, heads, p->sq * row_bytes(form) * sharing,
           1);
  if (is_summed) mla_plan_rope_sum(arguments, plan);
  return 1;
}

/* MLA_BACKWARD converts its operands once for both. */
static int plan_gradients(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, MlaType type, void *workspace,
                          MlaPlan *plan) {
  MlaArguments arguments = {.params = *p};
  int has_delta = plan->count; /* which is launched first; the conversion reads nothing of it */
  if (!mla_gradient_operands(plan, workspace, &arguments, type, conversion)) return 0;
  if (has_delta && plan->count > 1) plan->launches[1].is_early = 1;
  return (kernel == MLA_DKV || plan_dq(device, &arguments, type, plan)) &&
         (kernel == MLA_DQ || plan_dkv(device, &arguments, type, kernel == MLA_BACKWARD, workspace, plan));
}

int mla_plan_sm90(const MlaDevice *device, MlaKernel kernel, const MlaParams *p, void *workspace, MlaPlan *plan) {
  MlaType type = mla_multiplied_type(p);
  if (device->capability != 90 || mla_multiplied_as(p) == MLA_AS_TF32 || p->softmax_scale <= 0) return 0;
  if (!p->batch || !p->hq || !p->sq || !p->skv || !p->dn || !p->dv || kernel == MLA_DELTA) return 0;
  if (p->is_decode) return type != MLA_FLOAT32 && mla_plan_sm90_decode(device, kernel, p, workspace, plan);
  if (p->dv % 16 || p->dn % 16 || p->dr % 16) return 0;
  if (type == MLA_FLOAT32) return mla_plan_sm90_split(device, kernel, p, workspace, plan);
  if (kernel == MLA_FORWARD) return plan_forward(device, p, type, workspace, plan);
  return plan_gradients(device, kernel, p, type, workspace, plan);
}
