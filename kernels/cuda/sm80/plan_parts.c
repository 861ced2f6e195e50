#include "plan_parts.h"
#include "convert.h"

MlaType mla_multiplied_type(const MlaParams *p) {
  if (p->type != MLA_FLOAT32) return p->type;
  if (p->precision == MLA_AS_FLOAT16) return MLA_FLOAT16;
  return p->precision == MLA_AS_BFLOAT16 ? MLA_BFLOAT16 : MLA_FLOAT32;
}

MlaPrecision mla_multiplied_as(const MlaParams *p) {
  if (p->type == MLA_FLOAT16) return MLA_AS_FLOAT16;
  return p->type == MLA_BFLOAT16 ? MLA_AS_BFLOAT16 : p->precision;
}

unsigned mla_number_bytes(MlaPrecision as) { return as == MLA_AS_FLOAT32 || as == MLA_AS_TF32 ? 4 : 2; }

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

/* Room in the workspace for rows of 16-bit numbers, in the order of the given ones. Rows that heads share stay so. */
static MlaRows place_rows(MlaPlan *plan, void *workspace, MlaRows rows, int batch, int positions, int heads, int columns) {
  int is_head_outer = rows.head > rows.position;
  if (rows.head == 0) heads = 1;
  int64_t all = (int64_t)positions * heads * columns;
  MlaRows placed = {.start = mla_take(plan, workspace, (size_t)(batch * all) * 2), .batch = all};
  placed.position = is_head_outer ? columns : (int64_t)heads * columns;
  placed.head = is_head_outer ? (int64_t)positions * columns : rows.head == 0 ? 0 : columns;
  return placed;
}

static MlaRows place_d_out(MlaPlan *plan, void *workspace, const MlaParams *p) {
  return place_rows(plan, workspace, p->d_out, p->batch, p->sq, p->hq, p->dv);
}

static MlaLaunch *launch_convert(MlaPlan *plan, const char *module, const char *function, const MlaArguments *arguments,
                                 int64_t numbers, int64_t most_blocks) {
  int64_t each = 8 * MLA_CONVERT_AT_ONCE * MLA_CONVERT_THREADS, blocks = (numbers + each - 1) / each;
  MlaLaunch *launch = mla_launch(plan, module, function, arguments);
  launch->threads = MLA_CONVERT_THREADS;
  launch->grid[0] = (unsigned)(blocks < most_blocks ? blocks : most_blocks);
  return launch;
}

/* Blocks that a large GPU runs at once: each reads on while others write. */
enum { MOST_BLOCKS = 528 };

/* Whether tensors can be copied 16 bytes at a time. */
static int are_whole(const MlaParams *p) {
  int is_whole = p->dn % 8 == 0 && p->dr % 8 == 0 && p->dv % 8 == 0;
  const MlaRows *all[] = {&p->q, &p->k, &p->v, &p->k_rope, &p->d_out, &p->out};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) is_whole = is_whole && mla_is_aligned(all[i], p->type);
  return is_whole;
}

int mla_operands(MlaPlan *plan, void *workspace, MlaParams *p, MlaType type, const char *conversion,
                 MlaConverted last) {
  if (!are_whole(p)) return 0;
  if (p->type == type) return 1;
  MlaArguments arguments = {.params = *p};
  MlaParams *to = &arguments.params;
  p->k = to->d_k = place_rows(plan, workspace, p->k, p->batch, p->skv, p->hkv, p->dn);
  p->v = to->d_v = place_rows(plan, workspace, p->v, p->batch, p->skv, p->hkv, p->dv);
  if (p->dr) p->k_rope = to->d_k_rope = place_rows(plan, workspace, p->k_rope, p->batch, p->skv, p->hkv, p->dr);
  if (last >= MLA_CONVERT_Q) {
    p->q = to->d_q = place_rows(plan, workspace, p->q, p->batch, p->sq, p->hq, p->dn + p->dr);
    p->q_rope = p->q;
    p->q_rope.start = (char *)p->q.start + p->dn * 2;
  }
  if (last >= MLA_CONVERT_D_OUT) p->d_out = to->out = place_d_out(plan, workspace, p);
  int64_t queries = (int64_t)p->batch * p->sq * p->hq, keys = (int64_t)p->batch * p->skv * p->hkv;
  int64_t of_queries = last < MLA_CONVERT_Q ? 0 : queries * (p->dn + p->dr), of_keys = keys * (p->dn > p->dv ? p->dn : p->dv);
  MlaLaunch *launch = launch_convert(plan, conversion, type == MLA_FLOAT16 ? "convert_f16" : "convert_bf16", &arguments,
                                     of_queries > of_keys ? of_queries : of_keys, MOST_BLOCKS);
  launch->grid[2] = last + 1;
  return 1;
}

/* d_out as halves, multiplied by a power of two so that the small ones are halves too. The GPU puts it at *power. */
static MlaRows scaled_d_out(MlaPlan *plan, void *workspace, const MlaParams *p, float **power) {
  enum { MOST_PARTS = 1024 };
  int64_t numbers = (int64_t)p->batch * p->sq * p->hq * p->dv;
  MlaArguments arguments = {.params = *p};
  arguments.params.out = place_d_out(plan, workspace, p);
  arguments.partial_lse = mla_take(plan, workspace, MOST_PARTS * sizeof(float));
  arguments.partial_out = *power = mla_take(plan, workspace, sizeof(float));
  const char *module = "sm80/convert";
  arguments.splits = (int)launch_convert(plan, module, "convert_greatest", &arguments, numbers, MOST_PARTS)->grid[0];
  launch_convert(plan, module, "convert_scaled_f16", &arguments, numbers, MOST_BLOCKS);
  return arguments.params.out;
}

int mla_gradient_operands(MlaPlan *plan, void *workspace, MlaArguments *arguments, MlaType type,
                          const char *conversion) {
  MlaParams *p = &arguments->params;
  if (p->type == type || type != MLA_FLOAT16) return mla_operands(plan, workspace, p, type, conversion, MLA_CONVERT_D_OUT);
  MlaParams of_d_out = *p;
  if (!mla_operands(plan, workspace, p, type, conversion, MLA_CONVERT_Q)) return 0;
  p->d_out = scaled_d_out(plan, workspace, &of_d_out, &arguments->partial_lse);
  return 1;
}

/* Room for split halves: [batch, heads, positions, columns] as wide as floats, or [batch, heads, 2, positions, columns] of
   halves. */
static MlaRows place_split(MlaPlan *plan, void *workspace, MlaSplitForm form, int batch, int heads, int positions,
                           int columns) {
  int64_t of_head = (int64_t)positions * columns;
  void *start = mla_take(plan, workspace, (size_t)(batch * heads * of_head) * sizeof(float));
  if (form == MLA_SPLIT_IN_PLANES) of_head *= 2;
  return (MlaRows){start, heads * of_head, columns, of_head};
}
static MlaRows from_column(MlaRows rows, int column) {
  rows.start = (char *)rows.start + column * (int)sizeof(float);
  return rows;
}

int mla_split_operands(MlaPlan *plan, void *workspace, MlaArguments *arguments, MlaSplitForm form) {
  MlaParams *p = &arguments->params;
  if (!are_whole(p)) return 0;
  int64_t query_chunks = (int64_t)p->batch * p->hq * ((p->sq + MLA_SPLIT_ROWS - 1) / MLA_SPLIT_ROWS);
  int64_t key_chunks = (int64_t)p->batch * p->hkv * ((p->skv + MLA_SPLIT_ROWS - 1) / MLA_SPLIT_ROWS);
  arguments->partial_lse = mla_take(plan, workspace, (size_t)(2 * query_chunks + 2 * key_chunks) * sizeof(float));
  MlaArguments splitting = *arguments;
  MlaParams *to = &splitting.params;
  int has_d_out = p->d_out.start != NULL;
  p->q = to->d_q = place_split(plan, workspace, form, p->batch, p->hq, p->sq, p->dn + p->dr);
  p->k = to->d_k = place_split(plan, workspace, form, p->batch, p->hkv, p->skv, p->dn + p->dr);
  p->v = to->d_v = place_split(plan, workspace, form, p->batch, p->hkv, p->skv, p->dv);
  if (has_d_out) p->d_out = to->out = place_split(plan, workspace, form, p->batch, p->hq, p->sq, p->dv);
  p->q_rope = from_column(p->q, p->dn);
  p->k_rope = from_column(p->k, p->dn);
  MlaLaunch *launch = mla_launch(plan, "sm80/split", form == MLA_SPLIT_IN_PLANES ? "split_in_planes" : "split_operands",
                                 &splitting);
  launch->threads = MLA_SPLIT_THREADS;
  launch->grid[0] = (unsigned)(query_chunks > key_chunks ? query_chunks : key_chunks);
  launch->grid[1] = has_d_out ? MLA_SPLIT_D_OUT + 1 : MLA_SPLIT_D_OUT;
  return 1;
}
