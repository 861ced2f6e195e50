#include "plan_parts.h"

MlaType mla_multiplied_type(const MlaParams *p) {
  if (p->type != MLA_FLOAT32) return p->type;
  if (p->precision == MLA_AS_FLOAT16) return MLA_FLOAT16;
  return p->precision == MLA_AS_BFLOAT16 ? MLA_BFLOAT16 : MLA_FLOAT32;
}

int mla_is_aligned(const MlaRows *rows, MlaType type) {
  int64_t numbers = type == MLA_FLOAT32 ? 4 : 8;
  int64_t strides = rows->batch | rows->position | rows->head;
  return (uintptr_t)rows->start % 16 == 0 && strides % numbers == 0;
}

typedef struct {
  int batch, position, head, columns;
} Extent;

/* Float rows as rows of a 16-bit type in the workspace; rows that are shared by heads stay so. */
static MlaRows convert(MlaPlan *plan, void *workspace, MlaRows rows, Extent extent, MlaType to) {
  enum { THREADS = 256, NUMBERS = 4 };
  if (rows.head == 0) extent.head = 1;
  int64_t count = (int64_t)extent.batch * extent.position * extent.head * extent.columns;
  MlaRows converted = {
      .start = mla_take(plan, workspace, (size_t)count * 2),
      .batch = (int64_t)extent.position * extent.head * extent.columns,
      .position = (int64_t)extent.head * extent.columns,
      .head = rows.head == 0 ? 0 : extent.columns,
  };
  MlaArguments arguments = {.params = {.batch = extent.batch,
                                       .skv = extent.position,
                                       .hkv = extent.head,
                                       .dv = extent.columns,
                                       .v = rows,
                                       .out = converted}};
  MlaLaunch *launch = mla_launch(plan, "sm80/convert", to == MLA_FLOAT16 ? "convert_f16" : "convert_bf16", &arguments);
  launch->threads = THREADS;
  int64_t blocks = (count + THREADS * NUMBERS - 1) / (THREADS * NUMBERS);
  launch->grid[0] = blocks < 1 << 16 ? (unsigned)blocks : 1 << 16;
  return converted;
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
