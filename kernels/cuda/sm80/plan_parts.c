#include "plan_parts.h"

MlaType mla_multiplied_type(const MlaParams *p) {
  if (p->type != MLA_FLOAT32) return p->type;
  if (p->precision == MLA_AS_FLOAT16) return MLA_FLOAT16;
  return p->precision == MLA_AS_BFLOAT16 ? MLA_BFLOAT16 : MLA_FLOAT32;
}

unsigned mla_shared_bytes(const MlaDevice *device) {
  int c = device->capability;
  unsigned kilobytes = c >= 90 && c < 120 ? 227 : c == 80 || c == 87 ? 163 : 99;
  return kilobytes * 1024;
}

int mla_is_aligned(const MlaRows *rows, MlaType type) {
  int64_t numbers = type == MLA_FLOAT32 ? 4 : 8;
  int64_t strides = rows->batch | rows->position | rows->head;
  return (uintptr_t)rows->start % 16 == 0 && strides % numbers == 0;
}

enum { CONVERT_THREADS = 256, CONVERT_NUMBERS = 4 };

typedef struct {
  int batch, position, head, columns;
} Extent;

static MlaLaunch *launch_convert(MlaPlan *plan, const char *function, const MlaArguments *arguments, int64_t most_blocks) {
  const MlaParams *p = &arguments->params;
  int64_t each = CONVERT_THREADS * CONVERT_NUMBERS;
  int64_t blocks = ((int64_t)p->batch * p->skv * p->hkv * p->dv + each - 1) / each;
  MlaLaunch *launch = mla_launch(plan, "sm80/convert", function, arguments);
  launch->threads = CONVERT_THREADS;
  launch->grid[0] = (unsigned)(blocks < most_blocks ? blocks : most_blocks);
  return launch;
}

/* Rows of 16-bit numbers in the workspace, and the arguments of their conversion. Rows that are shared by heads stay so. */
static MlaArguments place_rows(MlaPlan *plan, void *workspace, MlaRows rows, Extent extent) {
  if (rows.head == 0) extent.head = 1;
  int64_t count = (int64_t)extent.batch * extent.position * extent.head * extent.columns;
  MlaRows converted = {
      .start = mla_take(plan, workspace, (size_t)count * 2),
      .batch = (int64_t)extent.position * extent.head * extent.columns,
      .position = (int64_t)extent.head * extent.columns,
      .head = rows.head == 0 ? 0 : extent.columns,
  };
  return (MlaArguments){.params = {.batch = extent.batch,
                                   .skv = extent.position,
                                   .hkv = extent.head,
                                   .dv = extent.columns,
                                   .v = rows,
                                   .out = converted}};
}

static MlaRows convert(MlaPlan *plan, void *workspace, MlaRows rows, Extent extent, MlaType to) {
  MlaArguments arguments = place_rows(plan, workspace, rows, extent);
  launch_convert(plan, to == MLA_FLOAT16 ? "convert_f16" : "convert_bf16", &arguments, 1 << 16);
  return arguments.params.out;
}

/* The same as halves, multiplied by a power of two so that the small ones are halves too. The GPU puts it at *power. */
static MlaRows convert_scaled(MlaPlan *plan, void *workspace, MlaRows rows, Extent extent, float **power) {
  enum { MOST_BLOCKS = 1024 };
  MlaArguments arguments = place_rows(plan, workspace, rows, extent);
  arguments.partial_lse = mla_take(plan, workspace, MOST_BLOCKS * sizeof(float));
  arguments.partial_out = *power = mla_take(plan, workspace, sizeof(float));
  arguments.splits = (int)launch_convert(plan, "convert_greatest", &arguments, MOST_BLOCKS)->grid[0];
  launch_convert(plan, "convert_scaled_f16", &arguments, 1 << 16);
  return arguments.params.out;
}

int mla_operands(MlaPlan *plan, void *workspace, MlaParams *p, MlaType type) {
  int is_whole = p->dn % 8 == 0 && p->dr % 8 == 0 && p->dv % 8 == 0;
  MlaRows *all[] = {&p->q, &p->k, &p->v, &p->k_rope, &p->d_out, &p->out};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) is_whole = is_whole && mla_is_aligned(all[i], p->type);
  if (!is_whole || p->type == type) return is_whole;
  p->q = convert(plan, workspace, p->q, (Extent){p->batch, p->sq, p->hq, p->dn + p->dr}, type);
  p->q_rope = p->q;
  p->q_rope.start = (char *)p->q.start + p->dn * 2;
  p->k = convert(plan, workspace, p->k, (Extent){p->batch, p->skv, p->hkv, p->dn}, type);
  p->v = convert(plan, workspace, p->v, (Extent){p->batch, p->skv, p->hkv, p->dv}, type);
  if (p->dr) p->k_rope = convert(plan, workspace, p->k_rope, (Extent){p->batch, p->skv, p->hkv, p->dr}, type);
  if (p->d_out.start) p->d_out = convert(plan, workspace, p->d_out, (Extent){p->batch, p->sq, p->hq, p->dv}, type);
  return 1;
}

int mla_gradient_operands(MlaPlan *plan, void *workspace, MlaArguments *arguments, MlaType type) {
  MlaParams *p = &arguments->params;
  if (p->type == type || type != MLA_FLOAT16) return mla_operands(plan, workspace, p, type);
  MlaRows d_out = p->d_out;
  p->d_out = (MlaRows){0};
  if (!mla_is_aligned(&d_out, p->type) || !mla_operands(plan, workspace, p, type)) return 0;
  Extent extent = {p->batch, p->sq, p->hq, p->dv};
  p->d_out = convert_scaled(plan, workspace, d_out, extent, &arguments->partial_lse);
  return 1;
}
