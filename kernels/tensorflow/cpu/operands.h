/* The operands of a tile's products, as float32, out of tensors of any type that may lie anyhow: as rows for the left
   side, as columns of panels (transposed) or as panels of columns for the right side. */

/* The heads that a tile's rows belong to. Its rows go position by position, and at each through all the heads. */
typedef struct {
  int batch, first, count;
} Heads;

/* What a tile multiplies. The rows of queries and keys are [nope | rope], of two tensors; queries come scaled. */
typedef struct {
  const MlaRows *nope, *rope;
  int dn, dr;
  float factor;
  MlaType type;
} Operand;

static inline Operand query_operand(const MlaParams *p) {
  return (Operand){&p->q, &p->q_rope, p->dn, p->dr, p->softmax_scale, p->type};
}
static inline Operand key_operand(const MlaParams *p) {
  return (Operand){&p->k, &p->k_rope, p->dn, p->dr, 1, p->type};
}
static inline Operand value_operand(const MlaParams *p) {
  return (Operand){&p->v, NULL, p->dv, 0, 1, p->type};
}
static inline Operand d_out_operand(const MlaParams *p) {
  return (Operand){&p->d_out, NULL, p->dv, 0, 1, p->type};
}

/* Columns of an operand: the depth of products over them. */
static inline int depth_of(Operand o) { return o.dn + o.dr; }

/* Columns of an operand in whole panels: those of nope, then those of rope. */
static inline int width_of(Operand o) { return (panels_of(o.dn) + panels_of(o.dr)) * PANEL; }

static inline int64_t row_index(const MlaRows *rows, Heads heads, int row) {
  return heads.batch * rows->batch + row / heads.count * rows->position +
         (heads.first + row % heads.count) * rows->head;
}

static inline float bfloat16_to_float(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

/* To the nearest, ties to even. */
static inline uint16_t float_to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return (uint16_t)(bits >> 16 | 64);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* to[0, count) = factor · row. */
static inline void read_row(float *to, const MlaRows *rows, MlaType type, int64_t index, int count, float factor) {
  if (type == MLA_FLOAT32)
    for (int c = 0; c < count; c++) to[c] = factor * ((const float *)rows->start)[index + c];
  else if (type == MLA_FLOAT16)
    for (int c = 0; c < count; c++) to[c] = factor * (float)((const _Float16 *)rows->start)[index + c];
  else
    for (int c = 0; c < count; c++) to[c] = factor * bfloat16_to_float(((const uint16_t *)rows->start)[index + c]);
}

/* row = factor · from[0, count). */
static inline void write_row(const MlaRows *rows, MlaType type, int64_t index, const float *from, int count,
                             float factor) {
  if (type == MLA_FLOAT32)
    for (int c = 0; c < count; c++) ((float *)rows->start)[index + c] = factor * from[c];
  else if (type == MLA_FLOAT16)
    for (int c = 0; c < count; c++) ((_Float16 *)rows->start)[index + c] = (_Float16)(factor * from[c]);
  else
    for (int c = 0; c < count; c++) ((uint16_t *)rows->start)[index + c] = float_to_bfloat16(factor * from[c]);
}

/* [count][depth]; zeros until there are whole quads. */
static void pack_rows(float *to, Operand o, Heads heads, int first, int count) {
  int depth = depth_of(o);
  for (int r = 0; r < count; r++, to += depth) {
    read_row(to, o.nope, o.type, row_index(o.nope, heads, first + r), o.dn, o.factor);
    if (o.dr) read_row(to + o.dn, o.rope, o.type, row_index(o.rope, heads, first + r), o.dr, o.factor);
  }
  fill(to, (QUAD - count % QUAD) % QUAD * depth, 0);
}

typedef float Four __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));

/* Four rows of `from` as four columns of a panel. */
static inline void transpose_four(float *to, const float *from, int depth) {
  int c = 0;
  for (; c + 4 <= depth; c += 4) {
    Four x[4];
    for (int i = 0; i < 4; i++) memcpy(&x[i], from + i * depth + c, sizeof x[i]);
    Four low01 = __builtin_shuffle(x[0], x[1], (FourInts){0, 4, 1, 5});
    Four low23 = __builtin_shuffle(x[2], x[3], (FourInts){0, 4, 1, 5});
    Four high01 = __builtin_shuffle(x[0], x[1], (FourInts){2, 6, 3, 7});
    Four high23 = __builtin_shuffle(x[2], x[3], (FourInts){2, 6, 3, 7});
    Four y[4] = {
        __builtin_shuffle(low01, low23, (FourInts){0, 1, 4, 5}),
        __builtin_shuffle(low01, low23, (FourInts){2, 3, 6, 7}),
        __builtin_shuffle(high01, high23, (FourInts){0, 1, 4, 5}),
        __builtin_shuffle(high01, high23, (FourInts){2, 3, 6, 7}),
    };
    for (int i = 0; i < 4; i++) memcpy(to + (c + i) * PANEL, &y[i], sizeof y[i]);
  }
  for (; c < depth; c++)
    for (int i = 0; i < 4; i++) to[c * PANEL + i] = from[i * depth + c];
}

/* Panels of PANEL rows, [depth][PANEL]; zeros until there are whole panels. `rows` has room for four of them. */
static void pack_columns(float *to, float *rows, Operand o, Heads heads, int first, int count) {
  int depth = depth_of(o);
  for (int r = 0; r < count; r += PANEL, to += PANEL * depth) {
    for (int four = 0; four < PANEL; four += 4) {
      for (int i = 0; i < 4; i++) {
        int row = r + four + i;
        if (row < count) {
          read_row(rows + i * depth, o.nope, o.type, row_index(o.nope, heads, first + row), o.dn, o.factor);
          if (o.dr)
            read_row(rows + i * depth + o.dn, o.rope, o.type, row_index(o.rope, heads, first + row), o.dr, o.factor);
        } else {
          fill(rows + i * depth, depth, 0);
        }
      }
      transpose_four(to + four, rows, depth);
    }
  }
}

/* Panels of PANEL columns, [rows][PANEL] with `count` rows in them; zeros until there are whole panels. */
static void pack_panels(float *to, int rows, float *row, Operand o, Heads heads, int first, int count) {
  int nope_width = panels_of(o.dn) * PANEL, width = width_of(o);
  for (int r = 0; r < count; r++) {
    read_row(row, o.nope, o.type, row_index(o.nope, heads, first + r), o.dn, o.factor);
    fill(row + o.dn, nope_width - o.dn, 0);
    if (o.dr) {
      read_row(row + nope_width, o.rope, o.type, row_index(o.rope, heads, first + r), o.dr, o.factor);
      fill(row + nope_width + o.dr, width - nope_width - o.dr, 0);
    }
    for (int c = 0; c < width; c += PANEL) memcpy(to + c * rows + r * PANEL, row + c, PANEL * sizeof(float));
  }
}
