#include "rows.h"

#include <cmath>
#include <deque>

#include "compare.h"
#include "kernel_call.h"
#include "timing.h"

namespace {

// A call on the device, and what should come out of it.
struct RowProblem {
  MlaRowCall call = {};
  std::deque<DeviceTensor> inputs = {};
  std::deque<Guarded> labels = {};
  std::vector<MlaAdamPiece> pieces = {};
  std::vector<DeviceTensor> outputs = {};
  std::vector<Expected> expected = {};
  double bytes = 0; // read and written at least

  const float *input(const Values &values) {
    inputs.emplace_back(values, MLA_FLOAT32, Layout::bshd, 0);
    inputs.back().upload(values);
    bytes += double(inputs.back().elements()) * sizeof(float);
    return static_cast<const float *>(inputs.back().start());
  }

  const int32_t *input(const std::vector<int32_t> &values) {
    labels.emplace_back(values.size() * sizeof(int32_t));
    cuda_check(cudaMemcpy(labels.back().start(), values.data(), labels.back().size(), cudaMemcpyHostToDevice),
               "cudaMemcpy to the device");
    return static_cast<const int32_t *>(labels.back().start());
  }

  // `of(row, column)` is what should be there.
  template <class Of> float *output(const char *name, int rows, int columns, Of of) {
    std::vector<int> places(rows);
    for (int i = 0; i < rows; i++) places[i] = i;
    Expected right(name, 1, 1, places, columns);
    parallel_for(rows, [&](int64_t row) {
      for (int c = 0; c < columns; c++) *(right.at(0, 0, row) + c) = of(int(row), c);
    });
    expected.push_back(std::move(right));
    outputs.emplace_back(Values{name, 1, 1, rows, columns}, MLA_FLOAT32, Layout::bshd, 0);
    bytes += double(outputs.back().elements()) * sizeof(float);
    return static_cast<float *>(outputs.back().start());
  }
};

struct RowCase {
  std::string name;
  bool is_timed;
  RowProblem (*make)(int, int, bool);
  int rows, columns;
  bool is_backward;
};

double at(const Values &values, int row, int column) { return values.data[size_t(row) * values.depth + column]; }

double row_sum(int columns, auto term) {
  double sum = 0;
  for (int c = 0; c < columns; c++) sum += term(c);
  return sum;
}

std::vector<double> for_rows(int rows, auto of) {
  std::vector<double> values(rows);
  parallel_for(rows, [&](int64_t row) { values[row] = of(int(row)); });
  return values;
}

RowProblem make_norm_of(int rows, int columns, bool is_backward, bool is_sum) {
  RowProblem made;
  made.call.kernel = is_backward ? MLA_NORM_BACKWARD : MLA_NORM;
  MlaNorm &p = made.call.arguments.norm;
  Values x = normals("x", 1, 1, rows, columns, 1), gain = normals("gain", 1, 1, 1, columns, 2), sum = x;
  Values addend = normals("addend", 1, 1, rows, columns, 4), d_sum = normals("d_sum", 1, 1, rows, columns, 5);
  for (size_t i = 0; is_sum && i < sum.data.size(); i++) sum.data[i] += addend.data[i];
  p.rows = rows, p.columns = columns, p.eps = 0.01f;
  p.parts = (rows + MLA_NORM_PART_ROWS - 1) / MLA_NORM_PART_ROWS;
  p.gain = made.input(gain);
  auto r = for_rows(rows, [&](int i) {
    return 1 / std::sqrt(row_sum(columns, [&](int c) { return at(sum, i, c) * at(sum, i, c); }) / columns + p.eps);
  });
  if (!is_backward) {
    p.x = made.input(x), p.sum = const_cast<float *>(p.x);
    if (is_sum) {
      p.addend = made.input(addend);
      p.sum = made.output("sum", rows, columns, [&](int i, int c) { return at(sum, i, c); });
    }
    p.y = made.output("y", rows, columns, [&](int i, int c) { return at(sum, i, c) * r[i] * at(gain, 0, c); });
    return made;
  }
  Values d_y = normals("d_y", 1, 1, rows, columns, 3);
  p.sum = const_cast<float *>(made.input(sum)), p.d_y = made.input(d_y);
  if (is_sum) p.d_sum = made.input(d_sum);
  auto along = for_rows(rows, [&](int i) {
    return row_sum(columns, [&](int c) { return at(d_y, i, c) * at(gain, 0, c) * at(sum, i, c); }) / columns;
  });
  p.d_x = made.output("d_x", rows, columns, [&](int i, int c) {
    double d_norm = r[i] * at(d_y, i, c) * at(gain, 0, c) - at(sum, i, c) * r[i] * r[i] * r[i] * along[i];
    return is_sum ? at(d_sum, i, c) + d_norm : d_norm;
  });
  p.d_gain = made.output("d_gain", 1, columns, [&](int, int c) {
    return row_sum(rows, [&](int i) { return at(d_y, i, c) * at(sum, i, c) * r[i]; });
  });
  return made;
}

RowProblem make_norm(int rows, int columns, bool is_backward) { return make_norm_of(rows, columns, is_backward, false); }
RowProblem make_add_norm(int rows, int columns, bool is_backward) { return make_norm_of(rows, columns, is_backward, true); }

// `columns` of a token: heads of 64 + 32, or of 0 + 6 where they are as few.
RowProblem make_rotary(int rows, int columns, bool is_backward) {
  RowProblem made;
  made.call.kernel = is_backward ? MLA_ROTARY_BACKWARD : MLA_ROTARY;
  MlaRotary &p = made.call.arguments.rotary;
  p.dn = columns % 96 ? 0 : 64, p.dr = columns % 96 ? 6 : 32;
  const int d = p.dn + p.dr, heads = columns / d, positions = rows % 2 ? rows : rows / 2;
  p.tokens = rows, p.positions = positions, p.heads = heads, p.is_interleaved = columns % 2 == 0 && rows % 3 != 0;
  Values angles = normals("angles", 1, 1, positions, p.dr, 4), cos = angles, sin = angles;
  auto partner = [&](int j) { return p.is_interleaved ? j ^ 1 : (j + p.dr / 2) % p.dr; };
  for (int i = 0; i < positions; i++)
    for (int j = 0; j < p.dr; j++) { // both of a pair turn by one angle
      double angle = at(angles, i, std::min(j, partner(j)));
      cos.row(0, 0, i)[j] = float(std::cos(angle)), sin.row(0, 0, i)[j] = float(std::sin(angle));
    }
  p.cos = made.input(cos), p.sin = made.input(sin);
  auto turned = [&](const Values &x, int row, int first, int j, double direction) {
    int position = row / heads % positions;
    double other = at(x, row, first + partner(j)) * at(sin, position, j) * direction;
    return at(x, row, first + j) * at(cos, position, j) + (partner(j) > j ? -other : other);
  };
  Values joined = normals("joined", 1, 1, rows * heads, d, 5), rope = normals("rope", 1, 1, rows * heads, p.dr, 6),
         nope = normals("nope", 1, 1, rows * heads, p.dn, 7);
  if (is_backward) {
    p.joined = const_cast<float *>(made.input(joined));
    if (p.dn) p.nope = made.output("d_nope", rows * heads, p.dn, [&](int i, int c) { return at(joined, i, c); });
    p.rope = made.output("d_rope", rows * heads, p.dr, [&](int i, int c) { return turned(joined, i, p.dn, c, -1); });
  } else {
    if (p.dn) p.nope = const_cast<float *>(made.input(nope));
    p.rope = const_cast<float *>(made.input(rope));
    p.joined = made.output("joined", rows * heads, d, [&](int i, int c) {
      return c < p.dn ? at(nope, i, c) : turned(rope, i, 0, c - p.dn, 1);
    });
  }
  return made;
}

RowProblem make_swiglu(int rows, int columns, bool is_backward) {
  RowProblem made;
  made.call.kernel = is_backward ? MLA_SWIGLU_BACKWARD : MLA_SWIGLU;
  MlaSwiglu &p = made.call.arguments.swiglu;
  Values gate = normals("gate", 1, 1, rows, columns, 1), up = normals("up", 1, 1, rows, columns, 2);
  for (float &x : gate.data) x *= 8;
  p.count = int64_t(rows) * columns, p.gate = made.input(gate), p.up = made.input(up);
  auto open = [&](int i, int c) { return 1 / (1 + std::exp(-at(gate, i, c))); };
  if (!is_backward) {
    p.out = made.output("out", rows, columns, [&](int i, int c) { return at(gate, i, c) * open(i, c) * at(up, i, c); });
    return made;
  }
  Values d_out = normals("d_out", 1, 1, rows, columns, 3);
  p.d_out = made.input(d_out);
  p.d_gate = made.output("d_gate", rows, columns, [&](int i, int c) {
    double sigmoid = open(i, c);
    return at(d_out, i, c) * at(up, i, c) * sigmoid * (1 + at(gate, i, c) * (1 - sigmoid));
  });
  p.d_up = made.output("d_up", rows, columns,
                       [&](int i, int c) { return at(d_out, i, c) * at(gate, i, c) * open(i, c); });
  return made;
}

RowProblem make_cross_entropy(int rows, int columns, bool is_backward) {
  RowProblem made;
  made.call.kernel = is_backward ? MLA_CROSS_ENTROPY_BACKWARD : MLA_CROSS_ENTROPY;
  MlaCrossEntropy &p = made.call.arguments.cross_entropy;
  Values logits = normals("logits", 1, 1, rows, columns, 1), d_loss = normals("d_loss", 1, 1, 1, 1, 2);
  std::vector<int32_t> labels(rows);
  for (int i = 0; i < rows; i++) labels[i] = int(int64_t(i) * 7919 % columns);
  for (float &x : logits.data) x = 90 + 2 * x; // exp of them overflows
  p.rows = rows, p.columns = columns, p.logits = made.input(logits), p.labels = made.input(labels);
  auto log_sums = for_rows(rows, [&](int i) {
    return 90 + std::log(row_sum(columns, [&](int c) { return std::exp(at(logits, i, c) - 90); }));
  });
  if (!is_backward) {
    double sum = row_sum(rows, [&](int i) { return log_sums[i] - at(logits, i, labels[i]); });
    p.loss = made.output("loss", 1, 1, [&](int, int) { return sum / rows; });
    return made;
  }
  p.d_loss = made.input(d_loss);
  p.d_logits = made.output("d_logits", rows, columns, [&](int i, int c) {
    return (std::exp(at(logits, i, c) - log_sums[i]) - (c == labels[i])) * d_loss.data[0] / rows;
  });
  return made;
}

// One tensor of rows x columns, and one of a row, whose moments follow.
RowProblem make_adam(int rows, int columns, bool) {
  RowProblem made;
  made.call.kernel = MLA_ADAM;
  MlaAdam &p = made.call.arguments.adam;
  Values value = normals("value", 1, 1, rows + 1, columns, 1), gradient = normals("gradient", 1, 1, rows + 1, columns, 2),
         first = normals("first", 1, 1, rows + 1, columns, 3), second = normals("second", 1, 1, rows + 1, columns, 4);
  for (float &x : second.data) x *= x;
  p.keep1 = 0.9f, p.add1 = 0.1f, p.keep2 = 0.95f, p.add2 = 0.05f, p.smallest = 1e-8f, p.rate = 0.01f;
  p.clip_norm = rows % 2 ? 0.5f : 1e9f;
  auto norms = for_rows(rows + 1, [&](int i) {
    return row_sum(columns, [&](int c) { return at(gradient, i, c) * at(gradient, i, c); });
  });
  double norm = std::sqrt(row_sum(rows + 1, [&](int i) { return norms[i]; })), factor = std::min(1.0, p.clip_norm / norm);
  auto m = [&](int i, int c) { return at(first, i, c) * p.keep1 + at(gradient, i, c) * factor * p.add1; };
  auto v = [&](int i, int c) { return at(second, i, c) * p.keep2 + std::pow(at(gradient, i, c) * factor, 2) * p.add2; };
  auto updated = [&](int i, int c) {
    return at(value, i, c) - m(i, c) * p.rate / (std::sqrt(v(i, c)) + p.smallest);
  };
  p.first_moment = made.input(first), p.second_moment = made.input(second);
  p.new_first_moment = made.output("first moment", rows + 1, columns, m);
  p.new_second_moment = made.output("second moment", rows + 1, columns, v);
  p.norm = made.output("norm", 1, 1, [&](int, int) { return norm; });
  auto add_tensor = [&](int first_row, int count) {
    auto part = [&](const Values &all) {
      Values rest = {all.name, 1, 1, count, columns};
      rest.data.assign(all.row(0, 0, first_row), all.row(0, 0, first_row) + size_t(count) * columns);
      return made.input(rest);
    };
    MlaAdamPiece whole = {part(value), part(gradient),
                          made.output("value", count, columns, [&](int i, int c) { return updated(first_row + i, c); }),
                          int64_t(first_row) * columns, count * columns};
    for (int i = 0; i < whole.count; i += MLA_ADAM_PIECE)
      made.pieces.push_back({whole.value + i, whole.gradient + i, whole.new_value + i, whole.first + i,
                             std::min<int>(MLA_ADAM_PIECE, whole.count - i)});
  };
  add_tensor(0, rows);
  add_tensor(rows, 1);
  p.pieces = int(made.pieces.size()), p.of = made.pieces.data();
  return made;
}

// Token i reads row id_of(i) of the table, which need not be there.
RowProblem make_embedding_of(int rows, int columns, int table, auto id_of) {
  RowProblem made;
  made.call.kernel = MLA_EMBEDDING_BACKWARD;
  MlaEmbedding &p = made.call.arguments.embedding;
  Values d_rows = normals("d_rows", 1, 1, rows, columns, 1);
  std::vector<int32_t> ids(rows);
  std::vector<std::vector<int>> readers(table);
  for (int i = 0; i < rows; i++) {
    ids[i] = id_of(i);
    if (ids[i] >= 0 && ids[i] < table) readers[ids[i]].push_back(i);
  }
  p.tokens = rows, p.table_rows = table, p.columns = columns;
  p.ids = made.input(ids), p.d_rows = made.input(d_rows);
  p.d_table = made.output("d_table", table, columns, [&](int row, int c) {
    double sum = 0;
    for (int i : readers[row]) sum += at(d_rows, i, c);
    return sum;
  });
  return made;
}

int scattered(int i, int among) { return int(int64_t(i) * 7919 % among); }

// A table of a quarter as many rows as there are tokens, of which one is frequent, and one more that none reads.
RowProblem make_embedding(int rows, int columns, bool) {
  const int table = rows / 4 + 1;
  return make_embedding_of(rows, columns, table + 1, [=](int i) { return i % 3 ? scattered(i, table) : 0; });
}
// All ids but some are equal.
RowProblem make_equal_embedding(int rows, int columns, bool) {
  return make_embedding_of(rows, columns, 9, [](int i) { return i % 100 == 1 ? scattered(i, 9) : 5; });
}
// More rows than ids, some of which are of no row.
RowProblem make_sparse_embedding(int rows, int columns, bool) {
  const int table = 12 * rows;
  return make_embedding_of(rows, columns, table, [=](int i) {
    return i % 7 == 0 ? -1 - i : i % 7 == 1 ? table + i % 2 : scattered(i, table);
  });
}
// Of bytes of text, whose frequencies are about those of a geometric series.
RowProblem make_byte_embedding(int rows, int columns, bool) {
  return make_embedding_of(rows, columns, 256, [](int i) {
    double x = scattered(i, 65521) / 65521.0;
    return std::min(255, int(-std::log(1 - x) * 16));
  });
}

std::vector<RowCase> all_row_cases() {
  std::vector<RowCase> cases;
  auto add_one = [&](std::string name, auto *make, int rows, int columns, bool is_timed, bool is_backward = false) {
    name += (is_backward ? " backward " : " ") + std::to_string(rows) + "x" + std::to_string(columns);
    cases.push_back({name, is_timed, make, rows, columns, is_backward});
  };
  auto add = [&](const char *name, auto *make, int rows, int columns, bool is_timed) {
    for (bool is_backward : {false, true}) add_one(name, make, rows, columns, is_timed, is_backward);
  };
  auto add_embeddings = [&](int rows, int columns, bool is_timed) {
    add_one("embedding", make_embedding, rows, columns, is_timed);
    add_one("embedding of equal ids", make_equal_embedding, rows, columns, is_timed);
    add_one("embedding of more rows than ids", make_sparse_embedding, rows, columns, is_timed);
    add_one("embedding of bytes", make_byte_embedding, rows, columns, is_timed);
  };
  for (auto [rows, columns] : {std::pair(1, 4), {33, 6}, {70, 256}, {100, 1001}, {513, 2}, {4099, 128}, {40, 7168}}) {
    add("norm", make_norm, rows, columns, false);
    add("add-norm", make_add_norm, rows, columns, false);
    add("swiglu", make_swiglu, rows, columns, false);
    add("cross-entropy", make_cross_entropy, rows, columns, false);
    add_embeddings(rows, columns, false);
    add_one("adam", make_adam, rows, columns, false);
  }
  for (auto [rows, columns] : {std::pair(1, 6), {33, 96}, {70, 768}, {64, 6}, {45, 18}}) add("rotary", make_rotary, rows, columns, false);
  // of a step of the demo's model 'large', 4 x 2048 tokens
  add("norm", make_norm, 8192, 256, true);
  add("add-norm", make_add_norm, 8192, 256, true);
  add("rotary", make_rotary, 8192, 768, true);
  add("swiglu", make_swiglu, 8192, 704, true);
  add("cross-entropy", make_cross_entropy, 8192, 256, true);
  add_embeddings(8192, 256, true);
  add_one("adam", make_adam, 8192, 768, true);
  return cases;
}

void plan_of(const RowProblem &problem, void *workspace, MlaPlan &plan) { mla_plan_rows(&problem.call, workspace, &plan); }

RowResult check(const RowCase &c, RowProblem &problem, cudaStream_t stream) {
  constexpr Bounds forward = {1e-5, 4e-5}, gradient = {2e-5, 8e-5}; // those of float32: see compare.h
  Outcome outcome = run_poisoned([&](void *workspace, MlaPlan &plan) { plan_of(problem, workspace, plan); },
                                 problem.outputs, stream);
  RowResult result = {c.name, outcome.failure, !outcome.failure.empty()};
  for (size_t i = 0; i < outcome.outputs.size() && outcome.failure.empty(); i++) {
    Comparison compared = compare(outcome.outputs[i], problem.expected[i], c.is_backward ? gradient : forward,
                                  MLA_FLOAT32, [](int, int) { return false; });
    result.is_failed |= !compared.failure.empty();
    result.text += (i ? ", " : "") + (compared.failure.empty() ? compared.figures : compared.failure);
  }
  return result;
}

RowResult time(const RowCase &c, const RowProblem &problem, bool is_cold, cudaStream_t stream) {
  MlaPlan plan;
  plan_of(problem, nullptr, plan);
  Guarded workspace(plan.workspace_bytes);
  plan_of(problem, workspace.start(), plan);
  const char *error = nullptr;
  Timing timing = time_calls([&] { if (!error) error = mla_cuda_run(&plan, MlaStream(stream)); }, stream, is_cold);
  return {c.name, error ? error : text_of(timing, 0, problem.bytes), error != nullptr};
}

} // namespace

std::vector<RowResult> run_rows(const std::vector<std::string> &filters, bool is_timing, bool is_cold,
                                cudaStream_t stream) {
  std::vector<RowResult> results;
  for (const RowCase &c : all_row_cases()) {
    bool is_wanted = c.is_timed == is_timing;
    for (const std::string &filter : filters) is_wanted = is_wanted && c.name.find(filter) != std::string::npos;
    if (!is_wanted) continue;
    RowProblem problem = c.make(c.rows, c.columns, c.is_backward);
    results.push_back(check(c, problem, stream));
    if (is_timing) results.push_back(time(c, problem, is_cold, stream));
  }
  return results;
}
