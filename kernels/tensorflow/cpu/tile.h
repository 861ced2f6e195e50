/* Products of a tile: QUAD rows of the left operand with panels of the right one. A panel is PANEL columns,
   [depth][PANEL]: one step of a product reads VECTORS vectors of it, side by side. */

/* Rows that a unit of work owns, and rows of the other operand that a step of its walk brings: multiples of every QUAD
   and of every PANEL. */
enum { LEFT = 96, RIGHT = 64 };

static inline int panels_of(int columns) { return (columns + PANEL - 1) / PANEL; }

/* to = a · panels, or to += a · panels: QUAD rows a[QUAD][depth], so many panels, side by side in
   to[QUAD][PANEL · panels]. Strides in floats; a_step is 1, or where `a` lies transposed, a_stride is. Here the time goes:
   the sums stay in registers. */
static __attribute__((noinline)) void multiply_quad(float *to, int to_stride, const float *a, int a_stride, int a_step,
                                                    const float *panel, int panel_stride, int panels, int depth,
                                                    int is_adding) {
  for (; panels > 0; panels--, panel += panel_stride, to += PANEL) {
    Floats sums[QUAD][VECTORS];
    for (int i = 0; i < QUAD; i++)
      for (int j = 0; j < VECTORS; j++)
        sums[i][j] = is_adding ? load(to + i * to_stride + j * LANES) : splat(0);
    for (int c = 0; c < depth; c++) {
      Floats y[VECTORS];
      for (int j = 0; j < VECTORS; j++) y[j] = load(panel + c * PANEL + j * LANES);
      for (int i = 0; i < QUAD; i++) {
        Floats x = splat(a[i * a_stride + c * a_step]);
        for (int j = 0; j < VECTORS; j++) sums[i][j] += x * y[j];
      }
    }
    for (int i = 0; i < QUAD; i++)
      for (int j = 0; j < VECTORS; j++) store(to + i * to_stride + j * LANES, sums[i][j]);
  }
}

static inline void fill(float *x, int count, float value) {
  for (int i = 0; i < count; i++) x[i] = value;
}

/* x[0, count) *= factor. */
static inline void scale(float *x, int count, float factor) {
  for (int i = 0; i < count; i++) x[i] *= factor;
}

/* x[0, count) += y. */
static inline void add(float *x, const float *y, int count) {
  for (int i = 0; i < count; i++) x[i] += y[i];
}
