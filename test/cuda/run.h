// One case with numbers of one type: its problem, its references, its calls; checked and timed.
#pragma once

#include "compare.h"
#include "kernel_call.h"
#include "timing.h"

enum class Verdict { passed, failed, not_served, not_built, not_checked };

struct Result {
  Verdict verdict;
  std::string family = {}, text = {}; // the figures, or what is wrong
  double of_bound = 0;
};

class CaseRun {
public:
  CaseRun(const Case &c, MlaType type, const Planner &planner, cudaStream_t stream);
  Result check(MlaKernel kernel, const Numbers &numbers);
  // NULL as kernel: all of a training step, one after the other.
  Result time(const MlaKernel *kernel, const Numbers &numbers, bool is_cold);

private:
  const Case &c;
  const Planner &planner;
  cudaStream_t stream;
  Problem problem;
  DeviceProblem device;
  std::vector<int> rows, keys; // that are compared
  bool is_whole;               // all are
  std::optional<ForwardExpected> forward;
  std::optional<Given> exact;
  std::optional<Given> given; // for this precision
  MlaPrecision given_precision;
  bool is_given_real = false; // or something like it, that no reference agrees with

  const ForwardExpected &forward_expected();
  const Given &givens(const Numbers &numbers);
  Given exact_givens(const Problem &operands) const;
  const Given &expected_givens(const Numbers &numbers);
  std::vector<Comparison> compare_all(MlaKernel kernel, const Numbers &numbers, std::vector<Values> &got);
  double largest_score();
  double flops(const MlaKernel *kernel) const;
  double bytes(const MlaKernel *kernel) const;
};
