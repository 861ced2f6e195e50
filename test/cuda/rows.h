// The row kernels of kernels/cuda/rows: checked against plain loops in float64, and timed.
#pragma once

#include <cuda_runtime.h>

#include <string>
#include <vector>

struct RowResult {
  std::string name, text; // the figures, or what is wrong
  bool is_failed;
};

// Runs work on all cases whose name holds all of the texts, the timed ones or the others.
std::vector<RowResult> run_rows(const std::vector<std::string> &filters, bool is_timing, bool is_cold,
                                cudaStream_t stream);
