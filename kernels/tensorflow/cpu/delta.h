/* MLADelta, B1 of gradients/README.md: delta = dOut·out − dLse. A unit of work is a head of a batch entry. */
typedef struct {
  float *out, *d_out; /* [dv] in whole vectors */
} DeltaRows;

static DeltaRows place_delta(const MlaParams *p, Scratch *scratch) {
  int columns = panels_of(p->dv) * PANEL;
  return (DeltaRows){take_floats(scratch, columns), take_floats(scratch, columns)};
}

static void delta_of_head(const MlaParams *p, int unit, Scratch scratch) {
  DeltaRows rows = place_delta(p, &scratch);
  Heads heads = {unit / p->hq, unit % p->hq, 1};
  int columns = panels_of(p->dv) * PANEL;
  fill(rows.out, columns, 0);
  fill(rows.d_out, columns, 0);
  for (int i = 0; i < p->sq; i++) {
    int64_t stat = stat_index(p, heads, i);
    read_row(rows.out, &p->out, p->type, row_index(&p->out, heads, i), p->dv, 1);
    read_row(rows.d_out, &p->d_out, p->type, row_index(&p->d_out, heads, i), p->dv, 1);
    Floats sums = splat(0);
    for (int c = 0; c < columns; c += LANES) sums += load(rows.out + c) * load(rows.d_out + c);
    p->delta[stat] = sum_of_lanes(sums) - (p->d_lse ? p->d_lse[stat] : 0);
  }
}
