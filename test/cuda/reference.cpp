#include "reference.h"

#include <cmath>
#include <limits>

Expected::Expected(std::string name_, int batch_, int heads_, std::vector<int> positions_, int depth_)
    : name(std::move(name_)), batch(batch_), heads(heads_), depth(depth_), positions(std::move(positions_)),
      data(size_t(batch) * heads * positions.size() * depth) {}

namespace {

double dot(const float *a, const float *b, int n) {
  double sum = 0;
  for (int i = 0; i < n; i++) sum += double(a[i]) * double(b[i]);
  return sum;
}

void add_scaled(double *to, double factor, const float *from, int n) {
  for (int i = 0; i < n; i++) to[i] += factor * double(from[i]);
}

// A case's tensors, by query head.
struct Reader {
  const Problem &p;
  const Case &c = *p.c;
  int group = c.hq ? c.hq / c.key_heads() : 1;
  double scale = c.scale();

  const float *q(int b, int h, int i) const { return p.q.row(b, h, i); }
  const float *q_rope(int b, int h, int i) const { return q(b, h, i) + c.dn; }
  const float *k(int b, int h, int j) const { return p.k.row(b, h / group, j); }
  const float *k_rope(int b, int j) const { return p.k_rope.row(b, 0, j); }
  const float *v(int b, int h, int j) const { return (c.is_decode ? p.k : p.v).row(b, h / group, j); }
  const float *d_out(int b, int h, int i) const { return p.d_out.row(b, h, i); }

  double score(int b, int h, int i, int j) const { // F1
    double product = dot(q(b, h, i), k(b, h, j), c.dn);
    if (c.dr) product += dot(q_rope(b, h, i), k_rope(b, j), c.dr);
    return scale * product;
  }

  double weight(int b, int h, int i, int j, const Values &lse) const { // F3
    return std::exp(score(b, h, i, j) - double(*lse.row(b, h, i)));
  }

  double d_score(int b, int h, int i, int j, double weight, const Values &delta) const { // B2, B3
    return weight * (dot(d_out(b, h, i), v(b, h, j), c.dv) - double(*delta.row(b, h, i)));
  }
};

// For all batch entries, query heads and places in `positions`.
void for_rows(const Case &c, const std::vector<int> &positions, const std::function<void(int, int, size_t)> &work) {
  parallel_for(int64_t(c.batch) * c.hq * int64_t(positions.size()), [&](int64_t task) {
    size_t place = size_t(task) % positions.size();
    int head = int(size_t(task) / positions.size());
    work(head / c.hq, head % c.hq, place);
  });
}

} // namespace

ForwardExpected forward_reference(const Problem &problem, const std::vector<int> &rows) {
  Reader r{problem};
  const Case &c = r.c;
  ForwardExpected expected = {{"out", c.batch, c.hq, rows, c.dv}, {"lse", c.batch, c.hq, rows, 1}};
  for_rows(c, rows, [&](int b, int h, size_t place) {
    Case::Range seen = c.visible_keys(b, rows[place]);
    std::vector<double> weights(seen.hi - seen.lo);
    double most = -std::numeric_limits<double>::infinity(), sum = 0;
    for (int j = seen.lo; j < seen.hi; j++) {
      weights[j - seen.lo] = r.score(b, h, rows[place], j);
      most = std::max(most, weights[j - seen.lo]);
    }
    for (double &weight : weights) sum += weight = std::exp(weight - most);
    double *out = expected.out.at(b, h, place);
    for (int j = seen.lo; j < seen.hi; j++) add_scaled(out, weights[j - seen.lo] / sum, r.v(b, h, j), c.dv);
    *expected.lse.at(b, h, place) = weights.empty() ? most : most + std::log(sum);
  });
  return expected;
}

Expected delta_reference(const Problem &problem, const Values &out, const std::vector<int> &rows) {
  const Case &c = *problem.c;
  Expected expected("delta", c.batch, c.hq, rows, 1);
  for_rows(c, rows, [&](int b, int h, size_t place) {
    int i = rows[place];
    double d_lse = c.has_d_lse ? *problem.d_lse.row(b, h, i) : 0;
    *expected.at(b, h, place) = dot(problem.d_out.row(b, h, i), out.row(b, h, i), c.dv) - d_lse; // B1
  });
  return expected;
}

DqExpected dq_reference(const Problem &problem, const Values &lse, const Values &delta, const std::vector<int> &rows) {
  Reader r{problem};
  const Case &c = r.c;
  DqExpected expected = {{"d_q", c.batch, c.hq, rows, c.dn}, {"d_q_rope", c.batch, c.hq, rows, c.dr}};
  for_rows(c, rows, [&](int b, int h, size_t place) {
    int i = rows[place];
    Case::Range seen = c.visible_keys(b, i);
    for (int j = seen.lo; j < seen.hi; j++) {
      double d_score = r.scale * r.d_score(b, h, i, j, r.weight(b, h, i, j, lse), delta);
      add_scaled(expected.d_q.at(b, h, place), d_score, r.k(b, h, j), c.dn); // B4
      if (c.dr) add_scaled(expected.d_q_rope.at(b, h, place), d_score, r.k_rope(b, j), c.dr);
    }
  });
  return expected;
}

DkvExpected dkv_reference(const Problem &problem, const Values &lse, const Values &delta, const std::vector<int> &keys) {
  Reader r{problem};
  const Case &c = r.c;
  DkvExpected expected = {{"d_k", c.batch, c.key_heads(), keys, c.dn},
                          {"d_k_rope", c.batch, 1, keys, c.dr},
                          {"d_v", c.batch, c.key_heads(), keys, c.dv}};
  parallel_for(int64_t(c.batch) * int64_t(keys.size()), [&](int64_t task) {
    int b = int(size_t(task) / keys.size());
    size_t place = size_t(task) % keys.size();
    int j = keys[place];
    Case::Range seeing = c.seeing_rows(b, j);
    for (int h = 0; h < c.hq; h++) {
      int key_head = h / r.group;
      double *d_k = expected.d_k.at(b, key_head, place);
      double *d_v = c.is_decode ? d_k : expected.d_v.at(b, key_head, place);
      for (int i = seeing.lo; i < seeing.hi; i++) {
        double weight = r.weight(b, h, i, j, lse);
        double d_score = r.scale * r.d_score(b, h, i, j, weight, delta);
        add_scaled(d_v, weight, r.d_out(b, h, i), c.dv); // B5
        add_scaled(d_k, d_score, r.q(b, h, i), c.dn);    // B6
        if (c.dr) add_scaled(expected.d_k_rope.at(b, 0, place), d_score, r.q_rope(b, h, i), c.dr); // B7
      }
    }
  });
  if (c.is_decode) expected.d_v = {};
  return expected;
}
