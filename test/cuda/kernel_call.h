// One kernel on one case on the device: its arguments as kernels/tensorflow/call.c makes them, run with poisoned outputs.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <stdexcept>

#include "reference.h"

extern "C" {
#include "../../kernels/cuda/driver.h"
#include "../../kernels/cuda/families.h"
#include "../../kernels/cuda/modules.h"
}

extern const char *const kernel_names[5]; // by MlaKernel

// The device is lost to this process: a fault, or a kernel that does not end.
struct DeviceLost : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What the backward kernels get of the kernels before them.
struct Given {
  Values out, lse, delta;
};

// A problem's tensors on the device.
class DeviceProblem {
public:
  explicit DeviceProblem(const Problem &problem);
  // Rows past q_lengths are NaN.
  void give(const Given &given);

  struct Call {
    MlaKernel kernel;
    MlaParams params;
    std::vector<DeviceTensor> outputs;
  };
  // The call of a kernel, with outputs of its own.
  Call call(MlaKernel kernel, MlaPrecision precision) const;

private:
  const Case &c;
  MlaType type;
  DeviceTensor q, q_rope, k, k_rope, v, out, d_out, d_lse, lse, delta;
  Guarded q_lengths, kv_lengths;
};

// Plans calls, with all families or the one of that name.
class Planner {
public:
  explicit Planner(const std::string &family);
  enum class Answer { planned, not_served, not_built };
  Answer plan(const DeviceProblem::Call &call, void *workspace, MlaPlan &plan) const;
  const MlaDevice &device() const { return properties; }

private:
  std::string family;
  MlaDevice properties;
};

// "sm80" of a plan of sm80/mla_attention.
std::string family_of(const MlaPlan &plan);

// Waits for the stream; throws DeviceLost.
void wait_for(cudaStream_t stream);

struct Outcome {
  std::vector<Values> outputs;
  std::string failure; // written outside, other bits in the second run, an error of the driver
};
// Plans into workspaces of its own, runs twice and compares the bits.
using PlanInto = std::function<void(void *workspace, MlaPlan &plan)>;
Outcome run_poisoned(const PlanInto &plan_into, std::vector<DeviceTensor> &outputs, cudaStream_t stream);
Outcome run_poisoned(const Planner &planner, DeviceProblem::Call &call, cudaStream_t stream);
