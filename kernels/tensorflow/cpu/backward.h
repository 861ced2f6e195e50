/* B2-B7 of gradients/README.md, for MLAAttentionBackward: MLAAttentionDq and MLAAttentionDkv in one walk, which forms scores
   and dP once for both. A unit of work is a key/value head of a batch entry: it takes tiles of LEFT keys, the first ones
   first, and walks over their rows as dkv.h does; it keeps dSᵀ of all the tile's keys, and then takes QUAD rows at a time:
     dQ += dS·K
   All sums go the way of dq.h and dkv.h, so their bits are the same. The rope part of dK, which heads share, is left in
   `rope_parts` [batch][hkv][skv][dr], which the units of a second job add up. */
typedef struct {
  DkvTile dkv;
  int width;
  float *k_panels; /* panels of columns, [LEFT][PANEL] */
  float *d_q;      /* [rows of the head, and a quad][width] */
} BackwardTile;

static BackwardTile place_backward(const MlaParams *p, Scratch *scratch) {
  BackwardTile t = {.dkv = place_dkv(p, scratch), .width = width_of(key_operand(p))};
  t.k_panels = take_floats(scratch, LEFT * t.width);
  t.d_q = take_floats(scratch, ((int64_t)p->sq * t.dkv.group + QUAD) * t.width);
  return t;
}

/* Of the rows [row, row + count) and all keys of the tile. A last quad may go past the rows: dS is 0 there. */
static void dq_of_step(const MlaParams *p, const BackwardTile *t, int row, int count) {
  const DkvTile *keys = &t->dkv;
  Range ranges[RIGHT];
  for (int n = 0; n < count; n++)
    ranges[n] = visible_keys(p, (row + n) / keys->group, keys->q_length, keys->kv_length);
  for (int quad = 0; quad < count; quad += QUAD) {
    Range seen = quad_range(ranges, quad, count, keys->first_key, keys->keys);
    if (seen.lo < seen.hi) /* B4 */
      multiply_quad(t->d_q + (int64_t)(row + quad) * t->width, t->width, keys->d_s + seen.lo * D_S_ROW + quad, 1,
                    D_S_ROW, t->k_panels + seen.lo * PANEL, PANEL * LEFT, t->width / PANEL, seen.hi - seen.lo, 1);
  }
}

static void backward_of_tile(const MlaParams *p, const BackwardTile *t) {
  const DkvTile *keys = &t->dkv;
  pack_panels(t->k_panels, LEFT, keys->rows, key_operand(p), keys->key_head, keys->first_key, keys->keys);
  for (int row = keys->seen.lo; row < keys->seen.hi; row += RIGHT) {
    int count = min_int(RIGHT, keys->seen.hi - row);
    begin_step(p, keys, row, count);
    fill(keys->d_s, LEFT * D_S_ROW, 0);
    for (int quad = 0; quad < keys->keys; quad += QUAD) dkv_of_quad(p, keys, quad, row, count);
    dq_of_step(p, t, row, count);
  }
}

static void backward_of_head(const MlaParams *p, float *rope_parts, int unit, Scratch scratch) {
  BackwardTile t = place_backward(p, &scratch);
  DkvTile *keys = &t.dkv;
  int batch = unit / p->hkv, kv_head = unit % p->hkv, rows = p->sq * keys->group;
  Heads heads = {batch, kv_head * keys->group, keys->group};
  for (int row = 0; row < rows + QUAD; row++) fill(t.d_q + (int64_t)row * t.width, t.width, 0);
  for (int tile = 0; tile < key_tiles(p); tile++) {
    begin_key_tile(p, keys, batch, tile);
    begin_head(p, keys, batch, kv_head);
    backward_of_tile(p, &t);
    write_keys(p, keys);
    for (int key = 0; p->dr && key < keys->keys; key++)
      memcpy(rope_parts + ((int64_t)unit * p->skv + keys->first_key + key) * p->dr,
             keys->d_k_rope + key * keys->rope_width, (size_t)p->dr * sizeof(float));
  }
  for (int row = 0; row < rows; row++) write_d_q(p, heads, row, t.d_q + (int64_t)row * t.width);
}

/* B7's sum over heads, in their order. A unit of work is LEFT keys of a batch entry. */
static void sum_rope_parts(const MlaParams *p, const float *rope_parts, int unit, Scratch scratch) {
  float *sum = take_floats(&scratch, p->dr);
  int batch = unit % p->batch, first_key = unit / p->batch * LEFT;
  for (int key = first_key; key < min_int(first_key + LEFT, p->skv); key++) {
    fill(sum, p->dr, 0);
    for (int kv_head = 0; kv_head < p->hkv; kv_head++)
      add(sum, rope_parts + (((int64_t)batch * p->hkv + kv_head) * p->skv + key) * p->dr, p->dr);
    write_row(&p->d_k_rope, p->type, row_index(&p->d_k_rope, (Heads){batch, 0, 1}, key), sum, p->dr, 1);
  }
}
