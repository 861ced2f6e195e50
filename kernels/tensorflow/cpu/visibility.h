/* Who sees whom: src/core/visibility.ts in C, and what of a tile's columns its rows see. The rows are queries and the
   columns keys, or in Dkv the other way round. */

/* [lo, hi), empty if lo = hi. */
typedef struct {
  int lo, hi;
} Range;

static inline int min_int(int a, int b) { return a < b ? a : b; }
static inline int max_int(int a, int b) { return a > b ? a : b; }

static inline int clamp_length(const int32_t *lengths, int batch, int size) {
  return lengths ? min_int(max_int(lengths[batch], 0), size) : size;
}

static inline Range range_of(int lo, int hi) { return hi > lo ? (Range){lo, hi} : (Range){0, 0}; }

/* The keys that row i sees. */
static inline Range visible_keys(const MlaParams *p, int i, int q_length, int kv_length) {
  int diagonal = p->is_top_left ? i : i + kv_length - q_length;
  if (i >= q_length) return range_of(0, 0);
  return range_of(max_int(0, diagonal - p->left), min_int(kv_length, diagonal + p->right + 1));
}

/* The rows that see key j. */
static inline Range seeing_rows(const MlaParams *p, int j, int q_length, int kv_length) {
  int diagonal = p->is_top_left ? j : j - kv_length + q_length;
  if (j >= kv_length) return range_of(0, 0);
  return range_of(max_int(0, diagonal - p->right), min_int(q_length, diagonal + p->left + 1));
}

/* What any of the ranges holds. */
static inline Range join_ranges(const Range *ranges, int count) {
  Range joined = {INT32_MAX, 0};
  for (int n = 0; n < count; n++) {
    if (ranges[n].lo == ranges[n].hi) continue;
    joined.lo = min_int(joined.lo, ranges[n].lo);
    joined.hi = max_int(joined.hi, ranges[n].hi);
  }
  return range_of(joined.lo, joined.hi);
}

/* What QUAD rows see of the columns [first, first + count), counted from `first`, from the beginning of a panel on. */
static inline Range quad_range(const Range *ranges, int quad, int rows, int first, int count) {
  Range seen = join_ranges(ranges + quad, min_int(QUAD, rows - quad));
  return range_of(max_int(seen.lo - first, 0) / PANEL * PANEL, min_int(seen.hi - first, count));
}

/* What one row sees of `count` columns from `first` on, counted from there; nothing past the last row. */
static inline Range row_range(const Range *ranges, int row, int rows, int first, int count) {
  if (row >= rows) return range_of(0, 0);
  return range_of(max_int(ranges[row].lo - first, 0), min_int(ranges[row].hi - first, count));
}
