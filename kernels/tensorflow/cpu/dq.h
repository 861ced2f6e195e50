/* MLAAttentionDq and MLADecodeDq, B2-B4 of gradients/README.md. The walk of attention.h, QUAD rows at a time:
     scores = Q·Kᵀ, dP = dOut·Vᵀ → P = exp(scores − lse), dS = P·(dP − delta) → sums += dS·K */
typedef struct {
  int depth, width;
  Range *ranges;
  float *q;        /* [LEFT][depth] */
  float *d_out;    /* [LEFT][dv] */
  float *k;        /* panels of keys, [depth][PANEL] */
  float *v;        /* panels of keys, [dv][PANEL] */
  float *k_panels; /* panels of columns, [RIGHT][PANEL] */
  float *p;        /* [QUAD][RIGHT], scores before */
  float *d_s;      /* [QUAD][RIGHT], dP before */
  float *sums;     /* [LEFT][width] */
  float *rows;     /* for packing */
} DqTile;

static DqTile place_dq(const MlaParams *p, Scratch *scratch) {
  DqTile t = {.depth = p->dn + p->dr, .width = width_of(key_operand(p))};
  t.ranges = take_bytes(scratch, LEFT * sizeof(Range));
  t.q = take_floats(scratch, LEFT * t.depth);
  t.d_out = take_floats(scratch, LEFT * p->dv);
  t.k = take_floats(scratch, RIGHT * t.depth);
  t.v = take_floats(scratch, RIGHT * p->dv);
  t.k_panels = take_floats(scratch, RIGHT * t.width);
  t.p = take_floats(scratch, QUAD * RIGHT);
  t.d_s = take_floats(scratch, QUAD * RIGHT);
  t.sums = take_floats(scratch, LEFT * t.width);
  t.rows = take_floats(scratch, 4 * max_int(t.width, p->dv));
  return t;
}

/* dP of a row becomes dS, 0 where the row does not see the key. */
static void d_s_of_row(const float *scores, float *d_p, Range seen, int count, float lse, float delta) {
  for (int c = 0; seen.lo < seen.hi && c < count; c += LANES)
    store(d_p + c, exp_floats(load(scores + c) - lse) * (load(d_p + c) - delta));
  fill(d_p, seen.lo, 0);
  fill(d_p + seen.hi, count - seen.hi, 0);
}

/* QUAD rows and the keys [key, key + count). */
static void dq_of_quad(const MlaParams *p, const DqTile *t, const QueryTile *tile, int quad, int key, int count) {
  Range seen = quad_range(tile->ranges, quad, tile->rows, key, count);
  if (seen.lo == seen.hi) return;
  int panels = panels_of(seen.hi - seen.lo);
  /* F1 */
  multiply_quad(t->p, RIGHT, t->q + quad * t->depth, t->depth, 1, t->k + seen.lo * t->depth, PANEL * t->depth, panels,
                t->depth, 0);
  /* B2 */
  multiply_quad(t->d_s, RIGHT, t->d_out + quad * p->dv, p->dv, 1, t->v + seen.lo * p->dv, PANEL * p->dv, panels, p->dv,
                0);
  /* F3, B3 */
  for (int row = quad; row < quad + QUAD; row++) {
    Range columns = row_range(tile->ranges, row, tile->rows, key + seen.lo, panels * PANEL);
    int is_row = columns.lo < columns.hi;
    int64_t stat = is_row ? stat_index(p, tile->query_heads, tile->first_row + row) : 0;
    d_s_of_row(t->p + (row - quad) * RIGHT, t->d_s + (row - quad) * RIGHT, columns, panels * PANEL,
               is_row ? p->lse[stat] : 0, is_row ? p->delta[stat] : 0);
  }
  /* B4 */
  multiply_quad(t->sums + quad * t->width, t->width, t->d_s, RIGHT, 1, t->k_panels + seen.lo * PANEL, PANEL * RIGHT,
                t->width / PANEL, seen.hi - seen.lo, 1);
}

/* `sums` of a row, of the packed rows of these heads, become dQ. */
static void write_d_q(const MlaParams *p, Heads heads, int row, const float *sums) {
  write_row(&p->d_q, p->type, row_index(&p->d_q, heads, row), sums, p->dn, p->softmax_scale);
  if (p->dr)
    write_row(&p->d_q_rope, p->type, row_index(&p->d_q_rope, heads, row), sums + panels_of(p->dn) * PANEL, p->dr,
              p->softmax_scale);
}

static void dq_of_tile(const MlaParams *p, int unit, Scratch scratch) {
  DqTile t = place_dq(p, &scratch);
  QueryTile tile = begin_query_tile(p, unit, t.ranges);
  pack_rows(t.q, query_operand(p), tile.query_heads, tile.first_row, tile.rows);
  pack_rows(t.d_out, d_out_operand(p), tile.query_heads, tile.first_row, tile.rows);
  fill(t.sums, LEFT * t.width, 0);
  for (int key = tile.seen.lo; key < tile.seen.hi; key += RIGHT) {
    int count = min_int(RIGHT, tile.seen.hi - key);
    pack_columns(t.k, t.rows, key_operand(p), tile.key_head, key, count);
    pack_columns(t.v, t.rows, value_operand(p), tile.key_head, key, count);
    pack_panels(t.k_panels, RIGHT, t.rows, key_operand(p), tile.key_head, key, count);
    for (int quad = 0; quad < tile.rows; quad += QUAD) dq_of_quad(p, &t, &tile, quad, key, count);
  }
  for (int row = 0; row < tile.rows; row++)
    write_d_q(p, tile.query_heads, tile.first_row + row, t.sums + row * t.width);
}
