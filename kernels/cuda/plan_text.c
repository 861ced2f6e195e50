#include "plan_text.h"

#include <stdio.h>
#include <stdlib.h>

#include "plan.h"

/* The numbers of a call in their order. */
typedef struct {
  int capability, multiprocessors;
  int kernel, is_decode, type, precision;
  int batch, hq, hkv, sq, skv, dn, dr, dv;
  int left, right, is_top_left;
  int has_q_lengths, has_kv_lengths, has_d_lse;
} Numbers;
enum { NUMBER_COUNT = sizeof(Numbers) / sizeof(int) };

static int read_numbers(const char *call, Numbers *numbers) {
  int *next = &numbers->capability;
  for (int i = 0; i < NUMBER_COUNT; i++) {
    char *end;
    next[i] = (int)strtol(call, &end, 10);
    if (end == call) return 0;
    call = end;
  }
  return 1;
}

/* Plans look at an address only for its alignment, which is TensorFlow's. */
static void *const somewhere = (void *)(1 << 20);

static MlaRows dense(int positions, int heads, int depth) {
  return (MlaRows){somewhere, (int64_t)positions * heads * depth, (int64_t)heads * depth, depth};
}

static MlaRows shared_by_heads(int positions, int depth) {
  MlaRows rows = dense(positions, 1, depth);
  rows.head = 0;
  return rows;
}

static MlaRows after(MlaRows rows, int columns, int type) {
  rows.start = (char *)rows.start + columns * (type == MLA_FLOAT32 ? 4 : 2);
  return rows;
}

static MlaParams params_of(const Numbers *n) {
  MlaRows q = n->is_decode ? dense(n->sq, n->hq, n->dn) : dense(n->sq, n->hq, n->dn + n->dr);
  MlaRows k = n->is_decode ? shared_by_heads(n->skv, n->dn) : dense(n->skv, n->hkv, n->dn);
  MlaRows out = dense(n->sq, n->hq, n->dv);
  MlaParams p = {
      .batch = n->batch, .hq = n->hq, .hkv = n->hkv, .sq = n->sq, .skv = n->skv, .dn = n->dn, .dr = n->dr, .dv = n->dv,
      .softmax_scale = 1, .is_decode = n->is_decode, .left = n->left, .right = n->right, .is_top_left = n->is_top_left,
      .type = (MlaType)n->type, .precision = (MlaPrecision)n->precision,
      .q_lengths = n->has_q_lengths ? somewhere : NULL, .kv_lengths = n->has_kv_lengths ? somewhere : NULL,
      .q = q, .k = k, .out = out, .d_out = out, .d_q = q, .d_k = k,
      .q_rope = n->is_decode ? dense(n->sq, n->hq, n->dr) : after(q, n->dn, n->type),
      .k_rope = shared_by_heads(n->skv, n->dr),
      .v = n->is_decode ? k : dense(n->skv, n->hkv, n->dv),
      .lse = somewhere, .delta = somewhere, .d_lse = n->has_d_lse ? somewhere : NULL,
  };
  p.d_q_rope = p.q_rope;
  p.d_k_rope = p.k_rope;
  if (!n->is_decode) p.d_v = p.v;
  return p;
}

int mla_plan_text(const char *call, char *text, size_t size) {
  Numbers numbers;
  MlaPlan plan;
  if (!read_numbers(call, &numbers)) return 0;
  MlaDevice device = {numbers.capability, numbers.multiprocessors};
  MlaParams params = params_of(&numbers);
  if (!mla_plan(&device, (MlaKernel)numbers.kernel, &params, NULL, &plan)) return snprintf(text, size, "null") < (int)size;
  size_t at = (size_t)snprintf(text, size, "{\"workspaceBytes\":%zu,\"launches\":[", plan.workspace_bytes);
  for (int i = 0; i < plan.count && at < size; i++) {
    const MlaLaunch *l = &plan.launches[i];
    at += (size_t)snprintf(text + at, size - at,
                           "%s{\"module\":\"%s\",\"function\":\"%s\",\"grid\":[%u,%u,%u],\"threads\":%u,\"sharedBytes\":%u}",
                           i ? "," : "", l->module, l->function, l->grid[0], l->grid[1], l->grid[2], l->threads,
                           l->shared_bytes);
  }
  if (at < size) at += (size_t)snprintf(text + at, size - at, "]}");
  return at < size;
}
