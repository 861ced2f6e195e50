#include "kernel_call.h"

#include <chrono>
#include <cstring>
#include <thread>

const char *const kernel_names[5] = {"forward", "delta", "dq", "dkv", "backward"};

static Values columns(const Values &from, int first, int count, const char *name) {
  Values part = {name, from.batch, from.heads, from.positions, count};
  part.data.resize(part.rows() * count);
  for (size_t row = 0; row < part.rows(); row++)
    std::memcpy(part.data.data() + row * count, from.data.data() + row * from.depth + first, count * sizeof(float));
  return part;
}

static DeviceTensor uploaded(const Values &values, MlaType type, Layout layout, int pad, const std::vector<int> &lengths) {
  DeviceTensor tensor(values, type, layout, pad);
  tensor.upload(values, lengths);
  return tensor;
}

static Guarded uploaded(const std::vector<int> &lengths) {
  if (lengths.empty()) return {};
  Guarded memory(lengths.size() * sizeof(int));
  cuda_check(cudaMemcpy(memory.start(), lengths.data(), memory.size(), cudaMemcpyHostToDevice), "cudaMemcpy of lengths");
  return memory;
}

DeviceProblem::DeviceProblem(const Problem &p)
    : c(*p.c), type(p.type), q_lengths(uploaded(c.q_lengths)), kv_lengths(uploaded(c.kv_lengths)) {
  // a cache is [batch][position] in every layout
  Layout key_layout = c.is_decode ? Layout::bshd : c.layout;
  if (c.is_decode) {
    q = uploaded(columns(p.q, 0, c.dn, "q"), type, c.layout, c.pad, c.q_lengths);
    q_rope = uploaded(columns(p.q, c.dn, c.dr, "q_rope"), type, c.layout, c.pad, c.q_lengths);
  } else {
    q = uploaded(p.q, type, c.layout, c.pad, c.q_lengths);
    v = uploaded(p.v, type, key_layout, c.pad, c.kv_lengths);
  }
  k = uploaded(p.k, type, key_layout, c.pad, c.kv_lengths);
  k_rope = uploaded(p.k_rope, type, key_layout, c.pad, c.kv_lengths);
  d_out = uploaded(p.d_out, type, c.layout, c.pad, c.q_lengths);
  d_lse = uploaded(p.d_lse, MLA_FLOAT32, Layout::bhsd, 0, {});
}

void DeviceProblem::give(const Given &given) {
  out = uploaded(given.out, type, c.layout, c.pad, c.q_lengths);
  lse = uploaded(given.lse, MLA_FLOAT32, Layout::bhsd, 0, c.q_lengths);
  delta = uploaded(given.delta, MLA_FLOAT32, Layout::bhsd, 0, c.q_lengths);
}

DeviceProblem::Call DeviceProblem::call(MlaKernel kernel, MlaPrecision precision) const {
  Call made = {kernel, {}, {}};
  MlaParams &p = made.params;
  Layout key_layout = c.is_decode ? Layout::bshd : c.layout;
  auto output = [&](const char *name, int heads, int positions, int depth, MlaType of, Layout layout, int pad) {
    made.outputs.emplace_back(Values{name, c.batch, heads, positions, depth}, of, layout, pad);
    return made.outputs.back().rows();
  };
  auto stats = [&](const char *name) {
    return static_cast<float *>(output(name, c.hq, c.sq, 1, MLA_FLOAT32, Layout::bhsd, 0).start);
  };
  auto floats = [](const DeviceTensor &tensor) { return static_cast<float *>(tensor.start()); };
  p.batch = c.batch, p.hq = c.hq, p.sq = c.sq, p.dv = c.dv;
  p.type = type, p.precision = precision;
  if (kernel == MLA_DELTA) { // knows neither keys nor lengths
    p.out = out.rows(), p.d_out = d_out.rows();
    if (c.has_d_lse) p.d_lse = floats(d_lse);
    p.delta = stats("delta");
    return made;
  }
  p.hkv = c.key_heads(), p.skv = c.keys(), p.dn = c.dn, p.dr = c.dr;
  p.softmax_scale = c.scale(), p.is_decode = c.is_decode;
  p.left = c.left, p.right = c.right, p.is_top_left = c.is_top_left;
  p.q_lengths = static_cast<int32_t *>(q_lengths.start()), p.kv_lengths = static_cast<int32_t *>(kv_lengths.start());
  p.q = q.rows(), p.q_rope = c.is_decode ? q_rope.rows() : q.rows(c.dn);
  p.k = k.rows(), p.v = c.is_decode ? k.rows() : v.rows();
  if (c.dr) p.k_rope = k_rope.rows();
  if (kernel == MLA_FORWARD) {
    p.out = output("out", c.hq, c.sq, c.dv, type, c.layout, c.pad);
    p.lse = stats("lse");
    return made;
  }
  p.d_out = d_out.rows(), p.lse = floats(lse);
  if (kernel == MLA_BACKWARD) { // computes delta itself
    p.out = out.rows();
    if (c.has_d_lse) p.d_lse = floats(d_lse);
  } else {
    p.delta = floats(delta);
  }
  bool has_dq = kernel != MLA_DKV, has_dkv = kernel != MLA_DQ;
  if (has_dq && c.is_decode) {
    p.d_q = output("d_q", c.hq, c.sq, c.dn, type, c.layout, c.pad);
    p.d_q_rope = output("d_q_rope", c.hq, c.sq, c.dr, type, c.layout, c.pad);
  } else if (has_dq) {
    p.d_q = output("d_q", c.hq, c.sq, c.dqk(), type, c.layout, c.pad);
    p.d_q_rope = made.outputs.back().rows(c.dn);
  }
  if (has_dkv) {
    p.d_k = output("d_k", c.key_heads(), c.keys(), c.dn, type, key_layout, c.pad);
    if (!c.is_decode) p.d_v = output("d_v", c.key_heads(), c.keys(), c.dv, type, key_layout, c.pad);
    if (c.dr) p.d_k_rope = output("d_k_rope", 1, c.keys(), c.dr, type, key_layout, c.pad);
  }
  return made;
}

Planner::Planner(const std::string &name) : family(name) {
  if (const char *error = mla_cuda_device(&properties)) {
    std::fprintf(stderr, "harness: %s\n", error);
    std::exit(2);
  }
}

static bool is_built(const char *module) {
  for (const MlaModule *m = mla_modules; m->name; m++)
    if (!std::strcmp(m->name, module)) return true;
  return false;
}

Planner::Answer Planner::plan(const DeviceProblem::Call &call, void *workspace, MlaPlan &plan) const {
  static const std::map<std::string, MlaFamily *> families = {
      {"sm90", mla_plan_sm90}, {"sm80", mla_plan_sm80}, {"general", mla_plan_general}};
  MlaFamily *only = family.empty() ? nullptr : families.at(family);
  if (!mla_plan_in(only, &properties, call.kernel, &call.params, workspace, &plan)) return Answer::not_served;
  for (int i = 0; i < plan.count; i++)
    if (!is_built(plan.launches[i].module)) return Answer::not_built;
  return Answer::planned;
}

std::string family_of(const MlaPlan &plan) {
  if (plan.count == 0) return "nothing to launch";
  bool has_delta_before = plan.count > 1 && std::strstr(plan.launches[0].module, "/mla_delta"); // of any family
  for (std::string family : {"sm90", "sm80"}) // which may launch those of the next, to convert operands
    for (int i = has_delta_before; i < plan.count; i++)
      if (std::string(plan.launches[i].module).starts_with(family)) return family;
  return "general";
}

void wait_for(cudaStream_t stream) {
  using clock = std::chrono::steady_clock;
  auto deadline = clock::now() + std::chrono::seconds(20);
  cudaError_t result;
  while ((result = cudaStreamQuery(stream)) == cudaErrorNotReady) {
    if (clock::now() > deadline) throw DeviceLost("does not end within 20 s");
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  if (result != cudaSuccess) throw DeviceLost(cudaGetErrorString(result));
}

static void compare_bits(const Values &first, const Values &second, std::string &failure) {
  for (size_t i = 0; i < first.data.size(); i++) {
    if (!std::memcmp(&first.data[i], &second.data[i], sizeof(float))) continue;
    failure = first.name + ": other bits in the second run, at " + first.position_name(i);
    return;
  }
}

Outcome run_poisoned(const PlanInto &plan_into, std::vector<DeviceTensor> &outputs, cudaStream_t stream) {
  static const uint8_t poisons[2] = {0xff, 0x7f}; // NaN, and huge numbers
  Outcome outcome;
  for (int turn = 0; turn < 2; turn++) {
    MlaPlan plan;
    plan_into(nullptr, plan);
    Guarded workspace(plan.workspace_bytes);
    plan_into(workspace.start(), plan);
    workspace.poison(poisons[turn]);
    for (DeviceTensor &output : outputs) output.poison(poisons[turn]);
    cuda_check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    if (const char *error = mla_cuda_run(&plan, MlaStream(stream))) {
      outcome.failure = error;
      return outcome;
    }
    wait_for(stream);
    for (size_t i = 0; i < outputs.size(); i++) {
      Values values = outputs[i].download(poisons[turn], outcome.failure);
      if (turn == 0) outcome.outputs.push_back(std::move(values));
      else compare_bits(outcome.outputs[i], values, outcome.failure);
    }
    std::vector<uint8_t> all = workspace.everything();
    for (size_t i = 0; i < Guarded::GUARD_BYTES; i++)
      if (all[i] != poisons[turn] || all[all.size() - 1 - i] != poisons[turn])
        outcome.failure = "written outside of the workspace of " + std::to_string(plan.workspace_bytes) + " bytes";
  }
  return outcome;
}

Outcome run_poisoned(const Planner &planner, DeviceProblem::Call &call, cudaStream_t stream) {
  return run_poisoned([&](void *workspace, MlaPlan &plan) { planner.plan(call, workspace, plan); }, call.outputs, stream);
}
