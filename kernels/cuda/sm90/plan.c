/* wgmma and TMA: 16-bit tensors whose rows the copy engine can read, on sm_90. */
#include "../families.h"

enum { PANEL = 64, L2_BYTES = 32 << 20 /* that a section of heads may fill */, WARPGROUP = 128 };

/* ---- tensor maps ---- */

static int is_aligned(int64_t bytes) { return bytes >= 0 && bytes % 16 == 0; }

/* A dim that all share an index of (stride 0), or that has one index, has any stride. */
static void describe_dim(MlaMap *map, int dim, int64_t size, int64_t stride, int element) {
  int is_one = size == 1 || stride == 0;
  map->dims[dim] = is_one ? 1 : (uint64_t)size;
  map->stride_bytes[dim] = is_one ? 16 : (uint64_t)(stride * element);
}

/* Adds the map of a tensor in boxes of box_rows positions; 0 if the copy engine cannot read it. */
static int add_map(MlaLaunch *launch, const MlaParams *p, const MlaRows *rows, int columns, int positions, int heads,
                   int box_rows) {
  const int element = 2;
  if (!is_aligned((intptr_t)rows->start) || !is_aligned(rows->batch * element) || !is_aligned(rows->head * element) ||
      !is_aligned(rows->position * element) || rows->position == 0)
    return 0;
  MlaMap *map = &launch->maps[launch->map_count++];
  *map = (MlaMap){.start = rows->start, .type = p->type, .rank = 4, .dims = {(uint64_t)columns},
                  .box = {PANEL, (uint32_t)box_rows, 1, 1}, .swizzle_bytes = 2 * PANEL};
  describe_dim(map, 1, positions, rows->position, element);
  describe_dim(map, 2, heads, rows->head, element);
  describe_dim(map, 3, p->batch, rows->batch, element);
  return 1;
}

/* ---- the forward ---- */

typedef struct {
  int head_qk, head_v, block_q, block_k, stages, blocks_per_multiprocessor;
  const char *names[2]; /* of the kernels for half and bfloat16 */
} Form;

#define NAMES(SIZES) {"mla_attention_f16_" SIZES, "mla_attention_bf16_" SIZES}

/* The forms for the same heads stand side by side, the largest block first. */
static const Form forms[] = {
    {192, 128, 128, 128, 2, 1, NAMES("192_128_q128")}, {192, 128, 64, 64, 2, 2, NAMES("192_128_q64")},
    {192, 128, 64, 128, 2, 1, NAMES("192_128_q64k128")},
    {128, 128, 128, 128, 2, 1, NAMES("128_128_q128")}, {128, 128, 64, 64, 3, 2, NAMES("128_128_q64")},
    {128, 64, 128, 128, 2, 1, NAMES("128_64_q128")},   {128, 64, 64, 64, 3, 2, NAMES("128_64_q64")},
    {64, 64, 128, 128, 2, 1, NAMES("64_64_q128")},     {64, 64, 64, 64, 4, 2, NAMES("64_64_q64")},
};

static int in_panels(int columns) { return (columns + PANEL - 1) / PANEL * PANEL; }
static int smaller(int64_t x, int64_t y) { return (int)(x < y ? x : y); }
static int at_least_one(int64_t x) { return x < 1 ? 1 : (int)x; }

static const Form *choose_form(const MlaDevice *device, const MlaParams *p) {
  (void)device;
  for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
    if (forms[i].head_qk == in_panels(p->dn) + in_panels(p->dr) && forms[i].head_v == in_panels(p->dv)) return &forms[i];
  return NULL;
}

static int plan_forward(const MlaDevice *device, const MlaParams *p, MlaPlan *plan) {
  const Form *form = choose_form(device, p);
  if (!form || p->type == MLA_FLOAT32 || p->dv % 16 || p->softmax_scale <= 0 || !p->skv || !p->sq || !p->batch)
    return 0;
  const MlaRows *out = &p->out;
  if ((out->position | out->head | out->batch | (intptr_t)out->start / 2) % 4) return 0;

  int64_t blocks = (int64_t)p->batch * p->hq * ((p->sq + form->block_q - 1) / form->block_q);
  int64_t head_bytes = (int64_t)p->skv * (form->head_qk + form->head_v) * 2;
  MlaArguments arguments = {.params = *p, .splits = at_least_one(L2_BYTES / head_bytes * (p->hq / p->hkv))};
  MlaLaunch *launch = mla_launch(plan, "sm90/mla_attention", form->names[p->type == MLA_BFLOAT16], &arguments);
  launch->grid[0] = (unsigned)smaller(blocks, device->multiprocessors * form->blocks_per_multiprocessor);
  launch->threads = (unsigned)(WARPGROUP + 2 * form->block_q);
  launch->shared_bytes = (unsigned)((form->block_q * form->head_qk +
                                     form->stages * form->block_k * (form->head_qk + form->head_v)) * 2 + 1024);
  const MlaRows *q_rope = p->dr ? &p->q_rope : &p->q, *k_rope = p->dr ? &p->k_rope : &p->k;
  int rope_columns = p->dr ? p->dr : p->dn;
  return add_map(launch, p, &p->q, p->dn, p->sq, p->hq, form->block_q) &&
         add_map(launch, p, q_rope, rope_columns, p->sq, p->hq, form->block_q) &&
         add_map(launch, p, &p->k, p->dn, p->skv, p->hkv, form->block_k) &&
         add_map(launch, p, k_rope, rope_columns, p->skv, p->hkv, form->block_k) &&
         add_map(launch, p, &p->v, p->dv, p->skv, p->hkv, form->block_k);
}

int mla_plan_sm90(const MlaDevice *device, MlaKernel kernel, const MlaParams *params, void *workspace, MlaPlan *plan) {
  (void)workspace;
  if (device->capability != 90) return 0;
  if (kernel == MLA_FORWARD && !params->is_decode) return plan_forward(device, params, plan);
  return 0;
}
