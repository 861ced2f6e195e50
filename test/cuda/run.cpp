#include "run.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace {

std::vector<int> all_positions(int count) {
  std::vector<int> positions(count);
  std::iota(positions.begin(), positions.end(), 0);
  return positions;
}

// The first, the last, those beside the edges of tiles, and some between.
std::vector<int> some_positions(int count) {
  std::vector<int> positions = {0, 1, 63, 64, 127, 128, 255, count / 2, count - 130, count - 65, count - 2, count - 1};
  for (int i = 1; i < 8; i++) positions.push_back(int(int64_t(count) * i / 8) + 11 * i);
  std::erase_if(positions, [&](int at) { return at < 0 || at >= count; });
  std::sort(positions.begin(), positions.end());
  positions.erase(std::unique(positions.begin(), positions.end()), positions.end());
  return positions;
}

Values as_values(const Expected &expected) {
  Values values = {expected.name, expected.batch, expected.heads, int(expected.positions.size()), expected.depth};
  values.data.assign(expected.data.begin(), expected.data.end());
  return values;
}

Values filled(const char *name, const Case &c, int depth, float value) {
  Values values = {name, c.batch, c.hq, c.sq, depth};
  values.data.assign(values.rows() * depth, value);
  return values;
}

Values columns_of(const Values &from, int first, int count) {
  Values part = {from.name, from.batch, from.heads, from.positions, count};
  for (size_t row = 0; row < from.rows(); row++) {
    auto start = from.data.begin() + int64_t(row * from.depth + first);
    part.data.insert(part.data.end(), start, start + count);
  }
  return part;
}

} // namespace

CaseRun::CaseRun(const Case &c_, MlaType type, const Planner &planner_, cudaStream_t stream_)
    : c(c_), planner(planner_), stream(stream_), problem(make_problem(c, type)), device(problem) {
  constexpr double MOST_PRODUCTS = 5e9; // that the reference does for all rows within a second or two
  is_whole = c.visible_pairs() * c.hq * (c.dqk() + c.dv) <= MOST_PRODUCTS;
  rows = is_whole ? all_positions(c.sq) : some_positions(c.sq);
  keys = is_whole ? all_positions(c.keys()) : some_positions(c.keys());
}

const ForwardExpected &CaseRun::forward_expected() {
  if (!forward) forward = forward_reference(problem, rows);
  return *forward;
}

double CaseRun::largest_score() {
  double largest = 1;
  for (double lse : forward_expected().lse.data)
    if (std::isfinite(lse)) largest = std::max(largest, std::fabs(lse));
  return largest;
}

// What the backward gets: of a forward in the numbers' own precision, as in a training step. From the reference; where that
// would take too long from our own kernels, and without these of the right size at least.
const Given &CaseRun::givens(const Numbers &numbers) {
  if (given && given_precision == numbers.precision) return *given;
  Given made = {filled("out", c, c.dv, 0.1f), filled("lse", c, 1, std::log(float(c.keys() + 1))),
                filled("delta", c, 1, 0)};
  MlaPlan plan;
  if (is_whole) {
    made = exact_givens(as_operands(problem, numbers.precision));
    is_given_real = true;
  } else {
    device.give(made);
    DeviceProblem::Call call = device.call(MLA_FORWARD, numbers.precision);
    if (planner.plan(call, nullptr, plan) == Planner::Answer::planned) {
      Outcome outcome = run_poisoned(planner, call, stream);
      made.out = outcome.outputs.at(0), made.lse = outcome.outputs.at(1);
      made.delta = as_values(delta_reference(problem, made.out, all_positions(c.sq)));
      is_given_real = true;
    }
  }
  device.give(made);
  given = std::move(made);
  given_precision = numbers.precision;
  return *given;
}

// What a forward without errors gives, but for `out` in the tensors' type.
Given CaseRun::exact_givens(const Problem &operands) const {
  ForwardExpected exact = forward_reference(operands, rows);
  Given made = {as_values(exact.out), as_values(exact.lse), {}};
  made.delta = as_values(delta_reference(problem, made.out, rows)); // of `out` as float32
  for (float &value : made.out.data) value = rounded(value, problem.type);
  return made;
}

// The statistics that the reference of the backward takes: exact ones, or those that the kernel got.
const Given &CaseRun::expected_givens(const Numbers &numbers) {
  if (!is_whole) return givens(numbers);
  if (!exact) exact = exact_givens(problem);
  return *exact;
}

std::vector<Comparison> CaseRun::compare_all(MlaKernel kernel, const Numbers &numbers, std::vector<Values> &got) {
  Tolerance tolerance = tolerance_of(numbers, largest_score());
  MlaType type = problem.type;
  auto is_empty = [](Case::Range range) { return range.hi == range.lo; };
  auto is_blind = [&](int b, int row) { return is_empty(c.visible_keys(b, row)); };
  auto is_unseen = [&](int b, int key) { return is_empty(c.seeing_rows(b, key)); };
  switch (kernel) {
    case MLA_FORWARD:
      return {compare(got[0], forward_expected().out, tolerance.out, type, is_blind),
              compare_lse(got[1], forward_expected().lse, tolerance.lse)};
    case MLA_DELTA: {
      Expected expected = delta_reference(problem, givens(numbers).out, rows);
      for (int b = 0; b < c.batch; b++) // knows no lengths: past them anything may stand
        for (int h = 0; h < c.hq; h++)
          for (size_t i = 0; i < rows.size(); i++)
            if (rows[i] >= c.q_length(b)) *got[0].row(b, h, rows[i]) = 0, *expected.at(b, h, i) = 0;
      return {compare(got[0], expected, tolerance.delta, MLA_FLOAT32, is_blind)};
    }
    case MLA_DQ: {
      DqExpected expected = dq_reference(problem, expected_givens(numbers).lse, expected_givens(numbers).delta, rows);
      Values rope = c.is_decode ? got[1] : columns_of(got[0], c.dn, c.dr);
      return {compare(columns_of(got[0], 0, c.dn), expected.d_q, tolerance.gradient, type, is_blind),
              compare(rope, expected.d_q_rope, tolerance.gradient, type, is_blind)};
    }
    case MLA_DKV: {
      DkvExpected expected = dkv_reference(problem, expected_givens(numbers).lse, expected_givens(numbers).delta, keys);
      auto compared = [&](const Values &values, const Expected &right) {
        return compare(values, right, tolerance.gradient, type, is_unseen);
      };
      std::vector<Comparison> comparisons = {compared(got[0], expected.d_k)};
      if (!c.is_decode) comparisons.push_back(compared(got[1], expected.d_v));
      if (c.dr) comparisons.push_back(compared(got.back(), expected.d_k_rope));
      return comparisons;
    }
    case MLA_BACKWARD: {
      std::vector<Values> of_keys(got.begin() + 1, got.end());
      std::vector<Comparison> comparisons = compare_all(MLA_DQ, numbers, got);
      std::ranges::copy(compare_all(MLA_DKV, numbers, of_keys), std::back_inserter(comparisons));
      return comparisons;
    }
  }
  return {};
}

Result CaseRun::check(MlaKernel kernel, const Numbers &numbers) {
  MlaPlan plan;
  DeviceProblem::Call call = device.call(kernel, numbers.precision);
  Planner::Answer answer = planner.plan(call, nullptr, plan);
  if (answer == Planner::Answer::not_served) return {Verdict::not_served};
  if (answer == Planner::Answer::not_built) return {Verdict::not_built, family_of(plan), plan.launches[0].module};
  if (kernel != MLA_FORWARD) {
    givens(numbers);
    if (!is_given_real && kernel != MLA_DELTA) return {Verdict::not_checked, family_of(plan), "needs a forward"};
    call = device.call(kernel, numbers.precision); // with what is given now
  }
  Outcome outcome = run_poisoned(planner, call, stream);
  Result result = {Verdict::passed, family_of(plan)};
  std::vector<Comparison> comparisons;
  if (outcome.outputs.size() == call.outputs.size()) comparisons = compare_all(kernel, numbers, outcome.outputs);
  for (const Comparison &comparison : comparisons) {
    result.of_bound = std::max(result.of_bound, comparison.of_bound);
    result.text.append(result.text.empty() ? "" : ", ").append(comparison.figures);
    if (comparison.failure.empty()) continue;
    outcome.failure.append(outcome.failure.empty() ? "" : "; ").append(comparison.failure);
  }
  if (outcome.failure.empty()) return result;
  return {Verdict::failed, result.family, outcome.failure, result.of_bound};
}

Result CaseRun::time(const MlaKernel *kernel, const Numbers &numbers, bool is_cold) {
  std::vector<DeviceProblem::Call> calls;
  std::vector<MlaPlan> plans;
  std::vector<Guarded> workspaces;
  std::string families;
  givens(numbers);
  std::vector<MlaKernel> kernels = {MLA_FORWARD, MLA_BACKWARD};
  if (c.is_decode) kernels = {MLA_FORWARD, MLA_DELTA, MLA_DQ, MLA_DKV};
  if (kernel) kernels = {*kernel};
  for (MlaKernel each : kernels) {
    calls.push_back(device.call(each, numbers.precision));
    MlaPlan &plan = plans.emplace_back();
    Planner::Answer answer = planner.plan(calls.back(), nullptr, plan);
    if (answer == Planner::Answer::not_served) return {Verdict::not_served};
    if (answer == Planner::Answer::not_built) return {Verdict::not_built, family_of(plan), plan.launches[0].module};
    planner.plan(calls.back(), workspaces.emplace_back(plan.workspace_bytes).start(), plan);
    if (families.find(family_of(plan)) == std::string::npos)
      families.append(families.empty() ? "" : "+").append(family_of(plan));
  }
  auto launch = [&] {
    for (const MlaPlan &plan : plans)
      if (const char *error = mla_cuda_run(&plan, MlaStream(stream))) throw std::runtime_error(error);
  };
  try {
    launch();
    wait_for(stream);
    Timing timing = time_calls(launch, stream, is_cold);
    return {Verdict::passed, families, text_of(timing, flops(kernel), bytes(kernel))};
  } catch (const DeviceLost &) {
    throw;
  } catch (const std::runtime_error &error) {
    return {Verdict::failed, families, error.what()};
  }
}

// Two for each pair of numbers multiplied. Backward counts its five products, however often they are done.
double CaseRun::flops(const MlaKernel *kernel) const {
  double qk = 2 * c.visible_pairs() * c.hq * c.dqk(), pv = 2 * c.visible_pairs() * c.hq * c.dv;
  if (!kernel) return (qk + pv) + (3 * qk + 2 * pv);
  switch (*kernel) {
    case MLA_FORWARD: return qk + pv;
    case MLA_DELTA: return 2.0 * c.batch * c.hq * c.sq * c.dv;
    case MLA_DQ: return 2 * qk + pv;
    case MLA_DKV: return 2 * qk + 2 * pv;
    case MLA_BACKWARD: return 3 * qk + 2 * pv;
  }
  return 0;
}

// Every input read and every output written once.
double CaseRun::bytes(const MlaKernel *kernel) const {
  double width = double(bytes_of(problem.type)), queries = double(c.batch) * c.hq * c.sq;
  double stats = 4 * queries, q = width * queries * c.dqk(), out = width * queries * c.dv;
  double keys_of_heads = width * c.batch * c.keys() * c.key_heads();
  double kv = keys_of_heads * (c.dn + (c.is_decode ? 0 : c.dv)) + width * c.batch * c.keys() * c.dr;
  double forward = q + kv + out + stats, delta = 2 * out + stats;
  double given_back = q + kv + out + 2 * stats, dq = given_back + q, dkv = given_back + kv;
  double backward = given_back - stats + out + q + kv; // delta is no input
  if (!kernel) return forward + (c.is_decode ? delta + dq + dkv : backward);
  switch (*kernel) {
    case MLA_FORWARD: return forward;
    case MLA_DELTA: return delta;
    case MLA_DQ: return dq;
    case MLA_DKV: return dkv;
    case MLA_BACKWARD: return backward;
  }
  return 0;
}
