// What the tensors of a case hold: normal numbers of a fixed seed, and the traps of the case.
#include <cmath>

#include "reference.h"

namespace {

uint64_t mixed(uint64_t x) {
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
  x = (x ^ x >> 27) * 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// Nearly normal: the sum of eight bytes' worth of uniform numbers.
float normal(uint64_t seed, uint64_t index) {
  uint64_t bits = mixed(seed * 0x9e3779b97f4a7c15 + index), low = mixed(bits + 0x632be59bd9b4e019);
  float sum = 0;
  for (int i = 0; i < 4; i++) sum += float(bits >> 16 * i & 0xffff) + float(low >> 16 * i & 0xffff);
  return (sum / 65536 - 4) * 1.2247449f;
}

} // namespace

Values normals(const char *name, int batch, int heads, int positions, int depth, uint64_t seed) {
  Values values = {name, batch, heads, positions, depth};
  values.data.resize(values.rows() * depth);
  parallel_for(int64_t(values.rows()), [&](int64_t row) {
    for (int d = 0; d < depth; d++) values.data[row * depth + d] = normal(seed, row * depth + d);
  });
  return values;
}

namespace {

void round_all(Values &values, MlaType type) {
  parallel_for(int64_t(values.rows()), [&](int64_t row) {
    for (int d = 0; d < values.depth; d++) {
      float &value = values.data[row * values.depth + d];
      value = rounded(value, type);
    }
  });
}

// A first column that lets scores grow from key to key, by 20 in all.
void let_scores_rise(Problem &p) {
  const Case &c = *p.c;
  const float highest = 20, along = std::sqrt(highest / std::fabs(c.scale()));
  for (int b = 0; b < c.batch; b++)
    for (int h = 0; h < c.hq; h++)
      for (int i = 0; i < c.sq; i++) p.q.row(b, h, i)[0] = along;
  for (int b = 0; b < c.batch; b++)
    for (int h = 0; h < c.key_heads(); h++)
      for (int j = 0; j < c.keys(); j++) p.k.row(b, h, j)[0] = along * float(j) / float(c.keys());
}

// The middle row of every other head points along the key that lies at a third, so far that their score is 60.
void make_sink(Problem &p) {
  const Case &c = *p.c;
  int key = c.keys() / 3, row = c.sq / 2, group = c.hq / c.key_heads();
  for (int b = 0; b < c.batch; b++)
    for (int h = 0; h < c.hq; h += 2) {
      const float *k = p.k.row(b, h / group, key);
      float *q = p.q.row(b, h, row), square = 0;
      for (int d = 0; d < c.dn; d++) square += k[d] * k[d];
      for (int d = 0; d < c.dqk(); d++) q[d] = d < c.dn ? 60 / c.scale() / square * k[d] : 0;
    }
}

void multiply_first_head(Values &values, float by) {
  for (int b = 0; b < values.batch; b++)
    for (int64_t i = 0; i < int64_t(values.positions) * values.depth; i++) values.row(b, 0, 0)[i] *= by;
}

} // namespace

Problem make_problem(const Case &c, MlaType type) {
  Problem p = {&c, type, {}, {}, {}, {}, {}, {}};
  p.q = normals("q", c.batch, c.hq, c.sq, c.dqk(), 1);
  p.k = normals("k", c.batch, c.key_heads(), c.keys(), c.dn, 2);
  p.k_rope = normals("k_rope", c.batch, 1, c.keys(), c.dr, 3);
  if (!c.is_decode) p.v = normals("v", c.batch, c.key_heads(), c.keys(), c.dv, 4);
  p.d_out = normals("d_out", c.batch, c.hq, c.sq, c.dv, 5);
  p.d_lse = normals("d_lse", c.batch, c.hq, c.sq, 1, 6);
  if (c.inputs == Inputs::rising) let_scores_rise(p);
  if (c.inputs == Inputs::sink) make_sink(p);
  auto multiply = [](Values &values, float by) {
    for (float &value : values.data) value *= by;
  };
  multiply(p.q, c.q_scale), multiply(p.k, c.k_scale), multiply(p.k_rope, c.k_scale), multiply(p.v, c.v_scale);
  multiply(p.d_out, c.d_out_scale), multiply(p.d_lse, c.d_out_scale);
  multiply_first_head(p.q, c.first_head_scale), multiply_first_head(p.v, c.first_head_scale);
  multiply_first_head(p.k, 1 / c.first_head_scale), multiply_first_head(p.d_out, 1 / c.first_head_scale);
  for (float &value : p.v.data) value += c.v_mean;
  for (float &value : p.d_out.data) value += c.d_out_mean;
  for (Values *values : {&p.q, &p.k, &p.k_rope, &p.v, &p.d_out}) round_all(*values, type);
  return p;
}

Problem as_operands(Problem problem, MlaPrecision precision) {
  for (Values *values : {&problem.q, &problem.k, &problem.k_rope, &problem.v, &problem.d_out})
    for (float &value : values->data) value = rounded(value, precision);
  return problem;
}
