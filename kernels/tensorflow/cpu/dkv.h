/* MLAAttentionDkv and MLADecodeDkv, B2, B3, B5-B7 of gradients/README.md. A unit of work owns LEFT keys of a batch entry
   and walks, head by head, over the rows that see them, RIGHT at a time; then QUAD keys at a time, all transposed:
     scoresᵀ = K·Qᵀ, dPᵀ = V·dOutᵀ → Pᵀ = exp(scores − lse), dSᵀ = P·(dP − delta) → dV += Pᵀ·dOut, dK += dSᵀ·Q
   The rope part of dK is summed for each head, and these sums over the heads in their order. */
typedef struct {
  int depth, nope_width, rope_width, value_width;
  int group, q_length, kv_length;
  Heads query_heads, key_head;
  int first_key, keys;
  Range *ranges; /* [LEFT], of packed rows */
  Range seen;
  float *k;            /* [LEFT][depth] */
  float *v;            /* [LEFT][dv] */
  float *q;            /* panels of rows, [depth][PANEL] */
  float *d_out;        /* panels of rows, [dv][PANEL] */
  float *q_panels;     /* panels of columns, [RIGHT][PANEL] */
  float *d_out_panels; /* panels of columns, [RIGHT][PANEL] */
  float *lse;          /* [RIGHT] */
  float *delta;        /* [RIGHT] */
  float *p;            /* [QUAD][RIGHT], scores before */
  float *d_s;          /* [LEFT][D_S_ROW], dP before */
  float *d_k;          /* [LEFT][nope_width] */
  float *d_k_rope;     /* [LEFT][rope_width], of the head at hand */
  float *rope_sum;     /* [LEFT][rope_width], of all heads */
  float *d_v;          /* [LEFT][value_width] */
  float *rows;         /* for packing */
} DkvTile;

/* Floats from a row of dSᵀ to the next: RIGHT, and room for a last quad of dq_of_step. */
enum { D_S_ROW = RIGHT + 16 };

static DkvTile place_dkv(const MlaParams *p, Scratch *scratch) {
  DkvTile t = {
      .depth = p->dn + p->dr,
      .nope_width = panels_of(p->dn) * PANEL,
      .rope_width = panels_of(p->dr) * PANEL,
      .value_width = panels_of(p->dv) * PANEL,
  };
  t.group = p->hkv ? p->hq / p->hkv : 1;
  t.ranges = take_bytes(scratch, LEFT * sizeof(Range));
  t.k = take_floats(scratch, LEFT * t.depth);
  t.v = take_floats(scratch, LEFT * p->dv);
  t.q = take_floats(scratch, RIGHT * t.depth);
  t.d_out = take_floats(scratch, RIGHT * p->dv);
  t.q_panels = take_floats(scratch, RIGHT * (t.nope_width + t.rope_width));
  t.d_out_panels = take_floats(scratch, RIGHT * t.value_width);
  t.lse = take_floats(scratch, RIGHT);
  t.delta = take_floats(scratch, RIGHT);
  t.p = take_floats(scratch, QUAD * RIGHT);
  t.d_s = take_floats(scratch, LEFT * D_S_ROW);
  t.d_k = take_floats(scratch, LEFT * t.nope_width);
  t.d_k_rope = take_floats(scratch, LEFT * t.rope_width);
  t.rope_sum = take_floats(scratch, LEFT * t.rope_width);
  /* the latent is key and value: one sum takes both */
  t.d_v = p->is_decode ? t.d_k : take_floats(scratch, LEFT * t.value_width);
  t.rows = take_floats(scratch, 4 * max_int(t.nope_width + t.rope_width, t.value_width));
  return t;
}

/* Of a batch entry. */
static int key_tiles(const MlaParams *p) { return (p->skv + LEFT - 1) / LEFT; }

static void begin_key_tile(const MlaParams *p, DkvTile *t, int batch, int tile) {
  t->q_length = clamp_length(p->q_lengths, batch, p->sq);
  t->kv_length = clamp_length(p->kv_lengths, batch, p->skv);
  t->first_key = tile * LEFT;
  t->keys = min_int(LEFT, p->skv - t->first_key);
  for (int key = 0; key < t->keys; key++) {
    Range rows = seeing_rows(p, t->first_key + key, t->q_length, t->kv_length);
    t->ranges[key] = range_of(rows.lo * t->group, rows.hi * t->group);
  }
  t->seen = join_ranges(t->ranges, t->keys);
}

/* Packs the tile's keys of a head, for which its sums begin anew. */
static void begin_head(const MlaParams *p, DkvTile *t, int batch, int kv_head) {
  t->query_heads = (Heads){batch, kv_head * t->group, t->group};
  t->key_head = (Heads){batch, kv_head, 1};
  pack_rows(t->k, key_operand(p), t->key_head, t->first_key, t->keys);
  pack_rows(t->v, value_operand(p), t->key_head, t->first_key, t->keys);
  fill(t->d_k, LEFT * t->nope_width, 0);
  fill(t->d_k_rope, LEFT * t->rope_width, 0);
  fill(t->d_v, LEFT * t->value_width, 0);
}

/* Packs the rows [row, row + count). */
static void begin_step(const MlaParams *p, const DkvTile *t, int row, int count) {
  pack_columns(t->q, t->rows, query_operand(p), t->query_heads, row, count);
  pack_columns(t->d_out, t->rows, d_out_operand(p), t->query_heads, row, count);
  pack_panels(t->q_panels, RIGHT, t->rows, query_operand(p), t->query_heads, row, count);
  pack_panels(t->d_out_panels, RIGHT, t->rows, d_out_operand(p), t->query_heads, row, count);
  fill(t->lse, RIGHT, 0);
  fill(t->delta, RIGHT, 0);
  for (int n = 0; n < count; n++) {
    int64_t stat = stat_index(p, t->query_heads, row + n);
    t->lse[n] = p->lse[stat];
    t->delta[n] = p->delta[stat];
  }
}

/* Scores of a key with `count` rows become P, dP becomes dS; both 0 where the row does not see the key. */
static void weigh_key(float *scores, float *d_p, Range seen, int count, const float *lse, const float *delta) {
  for (int c = 0; seen.lo < seen.hi && c < count; c += LANES) {
    Floats weights = exp_floats(load(scores + c) - load(lse + c));
    store(scores + c, weights);
    store(d_p + c, weights * (load(d_p + c) - load(delta + c)));
  }
  fill(scores, seen.lo, 0);
  fill(scores + seen.hi, count - seen.hi, 0);
  fill(d_p, seen.lo, 0);
  fill(d_p + seen.hi, count - seen.hi, 0);
}

/* QUAD keys and the rows [row, row + count). Panels of dSᵀ whose rows see none of the keys are not written. */
static void dkv_of_quad(const MlaParams *p, const DkvTile *t, int quad, int row, int count) {
  Range seen = quad_range(t->ranges, quad, t->keys, row, count);
  if (seen.lo == seen.hi) return;
  int panels = panels_of(seen.hi - seen.lo), depth = seen.hi - seen.lo;
  float *d_s = t->d_s + quad * D_S_ROW + seen.lo;
  /* F1 */
  multiply_quad(t->p, RIGHT, t->k + quad * t->depth, t->depth, 1, t->q + seen.lo * t->depth, PANEL * t->depth, panels,
                t->depth, 0);
  /* B2 */
  multiply_quad(d_s, D_S_ROW, t->v + quad * p->dv, p->dv, 1, t->d_out + seen.lo * p->dv, PANEL * p->dv, panels, p->dv,
                0);
  /* F3, B3 */
  for (int n = 0; n < QUAD; n++) {
    Range rows = row_range(t->ranges, quad + n, t->keys, row + seen.lo, panels * PANEL);
    weigh_key(t->p + n * RIGHT, d_s + n * D_S_ROW, rows, panels * PANEL, t->lse + seen.lo, t->delta + seen.lo);
  }
  /* B5 */
  multiply_quad(t->d_v + quad * t->value_width, t->value_width, t->p, RIGHT, 1, t->d_out_panels + seen.lo * PANEL,
                PANEL * RIGHT, t->value_width / PANEL, depth, 1);
  /* B6, B7: queries are scaled already */
  const float *nope = t->q_panels + seen.lo * PANEL, *rope = nope + t->nope_width * RIGHT;
  multiply_quad(t->d_k + quad * t->nope_width, t->nope_width, d_s, D_S_ROW, 1, nope, PANEL * RIGHT,
                t->nope_width / PANEL, depth, 1);
  multiply_quad(t->d_k_rope + quad * t->rope_width, t->rope_width, d_s, D_S_ROW, 1, rope, PANEL * RIGHT,
                t->rope_width / PANEL, depth, 1);
}

/* The head's dK but for its rope part, and dV. */
static void write_keys(const MlaParams *p, const DkvTile *t) {
  for (int key = 0; key < t->keys; key++) {
    int at = t->first_key + key;
    write_row(&p->d_k, p->type, row_index(&p->d_k, t->key_head, at), t->d_k + key * t->nope_width, p->dn, 1);
    if (!p->is_decode)
      write_row(&p->d_v, p->type, row_index(&p->d_v, t->key_head, at), t->d_v + key * t->value_width, p->dv, 1);
  }
}

/* The first tiles, which most rows see under a causal mask, have the highest numbers. */
static void dkv_of_tile(const MlaParams *p, int unit, Scratch scratch) {
  DkvTile t = place_dkv(p, &scratch);
  int batch = unit % p->batch;
  begin_key_tile(p, &t, batch, key_tiles(p) - 1 - unit / p->batch);
  fill(t.rope_sum, LEFT * t.rope_width, 0);
  for (int kv_head = 0; kv_head < p->hkv; kv_head++) {
    begin_head(p, &t, batch, kv_head);
    for (int row = t.seen.lo; row < t.seen.hi; row += RIGHT) {
      int count = min_int(RIGHT, t.seen.hi - row);
      begin_step(p, &t, row, count);
      for (int quad = 0; quad < t.keys; quad += QUAD) dkv_of_quad(p, &t, quad, row, count);
    }
    write_keys(p, &t);
    add(t.rope_sum, t.d_k_rope, LEFT * t.rope_width);
  }
  for (int key = 0; p->dr && key < t.keys; key++)
    write_row(&p->d_k_rope, p->type, row_index(&p->d_k_rope, (Heads){batch, 0, 1}, t.first_key + key),
              t.rope_sum + key * t.rope_width, p->dr, 1);
}
