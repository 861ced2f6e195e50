/* MLAAttention, F1-F4 of gradients/README.md with the softmax online (FlashAttention-2, arXiv:2307.08691, algorithm 1).
   MLADecode runs the same code on the cache.

   The walk packs RIGHT keys and values once, then takes the tile's rows QUAD at a time through all steps, so that their
   scores never leave the first cache:
     scores = Q·Kᵀ → P = exp(scores − max) → sums = sums · alpha + P·V */
typedef struct {
  int depth, width;
  Range *ranges;
  float *q;         /* [LEFT][depth] */
  float *k;         /* panels of keys, [depth][PANEL] */
  float *v;         /* panels of columns, [RIGHT][PANEL] */
  float *p;         /* [QUAD][RIGHT], scores before */
  float *sums;      /* [LEFT][width] */
  float *row_max;   /* [LEFT] */
  float *row_total; /* [LEFT] */
  float *rows;      /* for packing */
} ForwardTile;

static ForwardTile place_forward(const MlaParams *p, Scratch *scratch) {
  ForwardTile t = {.depth = p->dn + p->dr, .width = width_of(value_operand(p))};
  t.ranges = take_bytes(scratch, LEFT * sizeof(Range));
  t.q = take_floats(scratch, LEFT * t.depth);
  t.k = take_floats(scratch, RIGHT * t.depth);
  t.v = take_floats(scratch, RIGHT * t.width);
  t.p = take_floats(scratch, QUAD * RIGHT);
  t.sums = take_floats(scratch, LEFT * t.width);
  t.row_max = take_floats(scratch, LEFT);
  t.row_total = take_floats(scratch, LEFT);
  t.rows = take_floats(scratch, 4 * t.depth + t.width);
  return t;
}

/* Turns a row's scores of `count` columns, of which it sees `seen`, into weights against the greatest score so far, and
   returns what its sums so far have to be multiplied by. Columns that it does not see get 0. */
static float weigh_row(float *scores, Range seen, int count, float *row_max, float *row_total) {
  if (seen.lo == seen.hi) {
    fill(scores, count, 0);
    return 1;
  }
  fill(scores, seen.lo, -INFINITY);
  fill(scores + seen.hi, count - seen.hi, -INFINITY);
  Floats greatest = splat(*row_max);
  for (int c = 0; c < count; c += LANES) {
    Floats s = load(scores + c);
    greatest = select(s > greatest, s, greatest);
  }
  float new_max = max_of_lanes(greatest);
  float alpha = exp_floats(splat(*row_max - new_max))[0];
  Floats total = splat(0);
  for (int c = 0; c < count; c += LANES) {
    Floats weights = exp_floats(load(scores + c) - new_max);
    store(scores + c, weights);
    total += weights;
  }
  *row_max = new_max;
  *row_total = *row_total * alpha + sum_of_lanes(total);
  return alpha;
}

/* QUAD rows and the keys [key, key + count). */
static void attend_quad(const ForwardTile *t, const QueryTile *tile, int quad, int key, int count) {
  Range seen = quad_range(tile->ranges, quad, tile->rows, key, count);
  if (seen.lo == seen.hi) return;
  int panels = panels_of(seen.hi - seen.lo);
  /* F1 */
  multiply_quad(t->p, RIGHT, t->q + quad * t->depth, t->depth, 1, t->k + seen.lo * t->depth, PANEL * t->depth, panels,
                t->depth, 0);
  /* F2, F3 so far */
  for (int row = quad; row < quad + QUAD; row++) {
    Range columns = row_range(tile->ranges, row, tile->rows, key + seen.lo, panels * PANEL);
    float alpha = weigh_row(t->p + (row - quad) * RIGHT, columns, panels * PANEL, t->row_max + row, t->row_total + row);
    if (alpha != 1) scale(t->sums + row * t->width, t->width, alpha);
  }
  /* F4 so far */
  multiply_quad(t->sums + quad * t->width, t->width, t->p, RIGHT, 1, t->v + seen.lo * PANEL, PANEL * RIGHT,
                t->width / PANEL, seen.hi - seen.lo, 1);
}

static void attend_tile(const MlaParams *p, int unit, Scratch scratch) {
  ForwardTile t = place_forward(p, &scratch);
  QueryTile tile = begin_query_tile(p, unit, t.ranges);
  pack_rows(t.q, query_operand(p), tile.query_heads, tile.first_row, tile.rows);
  fill(t.sums, LEFT * t.width, 0);
  fill(t.row_max, LEFT, -INFINITY);
  fill(t.row_total, LEFT, 0);
  for (int key = tile.seen.lo; key < tile.seen.hi; key += RIGHT) {
    int count = min_int(RIGHT, tile.seen.hi - key);
    pack_columns(t.k, t.rows, key_operand(p), tile.key_head, key, count);
    pack_panels(t.v, RIGHT, t.rows, value_operand(p), tile.key_head, key, count);
    for (int quad = 0; quad < tile.rows; quad += QUAD) attend_quad(&t, &tile, quad, key, count);
  }
  /* a row that saw nothing gets 0, and -Infinity */
  for (int row = 0; row < tile.rows; row++) {
    float total = t.row_total[row];
    int64_t out = row_index(&p->out, tile.query_heads, tile.first_row + row);
    write_row(&p->out, p->type, out, t.sums + row * t.width, p->dv, total == 0 ? 0 : 1 / total);
    p->lse[stat_index(p, tile.query_heads, tile.first_row + row)] =
        total == 0 ? -INFINITY : (float)(t.row_max[row] + natural_log(total));
  }
}
