// gradients/README.md in float64, row by row and key by key, as plain loops.
#pragma once

#include <vector>

#include "tensor.h"

// A case's inputs, as rounded to the tensors' type. k_rope has one head for all; in decode v is k.
struct Problem {
  const Case *c;
  MlaType type;
  Values q, k, k_rope, v, d_out, d_lse;
};

// Nearly normal numbers of a seed.
Values normals(const char *name, int batch, int heads, int positions, int depth, uint64_t seed);

Problem make_problem(const Case &c, MlaType type);
// The same with the operands rounded to what they are multiplied as.
Problem as_operands(Problem problem, MlaPrecision precision);

// [batch][head][place][column]: values at some of the positions.
struct Expected {
  std::string name;
  int batch = 0, heads = 0, depth = 0;
  std::vector<int> positions = {};
  std::vector<double> data = {};

  Expected() = default;
  Expected(std::string name, int batch, int heads, std::vector<int> positions, int depth);
  size_t index(int b, int h, size_t place) const { return ((b * heads + h) * positions.size() + place) * depth; }
  const double *at(int b, int h, size_t place) const { return data.data() + index(b, h, place); }
  double *at(int b, int h, size_t place) { return data.data() + index(b, h, place); }
};

struct ForwardExpected {
  Expected out, lse;
};
ForwardExpected forward_reference(const Problem &problem, const std::vector<int> &rows);

// Of `out` as the kernel got it.
Expected delta_reference(const Problem &problem, const Values &out, const std::vector<int> &rows);

// From lse and delta as the kernel got them.
struct DqExpected {
  Expected d_q, d_q_rope;
};
DqExpected dq_reference(const Problem &problem, const Values &lse, const Values &delta, const std::vector<int> &rows);

// In decode d_k holds both parts, and d_v is empty.
struct DkvExpected {
  Expected d_k, d_k_rope, d_v;
};
DkvExpected dkv_reference(const Problem &problem, const Values &lse, const Values &delta, const std::vector<int> &keys);
