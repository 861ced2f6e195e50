/* Plans as text, for whoever asks without having tensors: explain(), the tests, the table of resources. */
#ifndef MLA_PLAN_TEXT_H
#define MLA_PLAN_TEXT_H

#include <stddef.h>

/* Writes the plan of `call` as JSON: {"workspaceBytes", "launches": [{"module", "function", "grid", "threads",
   "sharedBytes"}]}, or null if no kernel serves it. `call` is numbers with spaces between them, for dense tensors of
   layout bshd: capability multiprocessors, kernel is_decode type precision, batch hq hkv sq skv dn dr dv, left right
   is_top_left, has_q_lengths has_kv_lengths has_d_lse. Returns 0 if `call` is no such thing, or `text` too small. */
int mla_plan_text(const char *call, char *text, size_t size);

#endif
