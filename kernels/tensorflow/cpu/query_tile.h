/* What the forward and Dq share: a unit of work owns LEFT packed rows of queries and walks over the keys they see. */
typedef struct {
  Heads query_heads, key_head;
  int first_row, rows;
  Range *ranges; /* [LEFT] */
  Range seen;
} QueryTile;

/* Of a key/value head. */
static int query_tiles(const MlaParams *p) {
  if (p->hkv == 0) return 0;
  int64_t rows = (int64_t)p->sq * (p->hq / p->hkv);
  return (int)((rows + LEFT - 1) / LEFT);
}

/* Those of a head, whose keys stay in the caches meanwhile, follow one another; the last, which see most under a causal
   mask, have the highest numbers. */
static QueryTile begin_query_tile(const MlaParams *p, int unit, Range *ranges) {
  int tiles = query_tiles(p), group = p->hq / p->hkv;
  int batch = unit / tiles / p->hkv, kv_head = unit / tiles % p->hkv;
  QueryTile tile = {
      .query_heads = {batch, kv_head * group, group},
      .key_head = {batch, kv_head, 1},
      .first_row = unit % tiles * LEFT,
      .ranges = ranges,
  };
  tile.rows = min_int(LEFT, p->sq * group - tile.first_row);
  int q_length = clamp_length(p->q_lengths, batch, p->sq);
  int kv_length = clamp_length(p->kv_lengths, batch, p->skv);
  for (int row = 0; row < tile.rows; row++)
    ranges[row] = visible_keys(p, (tile.first_row + row) / group, q_length, kv_length);
  tile.seen = join_ranges(ranges, tile.rows);
  return tile;
}

/* Where the numbers of a row stand in [batch, hq, sq]. */
static inline int64_t stat_index(const MlaParams *p, Heads heads, int row) {
  int64_t head = (int64_t)heads.batch * p->hq + heads.first + row % heads.count;
  return head * p->sq + row / heads.count;
}
