// The CUDA kernels without TensorFlow: checked against float64 and timed. See usage.
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "rows.h"
#include "run.h"

namespace {

const char *const usage = R"(usage: harness [options]
  --filter TEXT     only cases whose name, with numbers as in "192/128 causal [bfloat16]", holds TEXT; given
                    again: all of the texts. At least one case must be left
  --kernel NAME     only forward, delta, dq, dkv or backward, which is the three before it in one call
  --family NAME     only what general, sm80 or sm90 serves; what it does not is then no failure
  --rows            the row kernels of kernels/cuda/rows in place of attention
  --time            the timed shapes: check some rows of them, then time
  --no-check        with --time: only time
  --cold            with --time: nothing in the L2 cache
  --verbose         a line for every check, also for those that pass
  --log FILE        those lines into a file
  --list            the names
Exit code 1 if a check fails, no family serves a case, or nothing was checked.
)";

struct Options {
  std::vector<std::string> filters;
  std::string family, log;
  std::optional<MlaKernel> kernel;
  bool is_timing = false, has_checks = true, is_cold = false, is_verbose = false, is_list = false, is_rows = false;
  int resume_at = 0, failures = 0; // after a lost device
};

[[noreturn]] void refuse(const std::string &what) {
  std::fprintf(stderr, "harness: %s\n%s", what.c_str(), usage);
  std::exit(2);
}

Options options_of(int count, char **arguments) {
  Options options;
  for (int i = 1; i < count; i++) {
    std::string name = arguments[i];
    auto value = [&] {
      if (i + 1 == count) refuse(name + " needs a value");
      return std::string(arguments[++i]);
    };
    if (name == "--filter") options.filters.push_back(value());
    else if (name == "--family") options.family = value();
    else if (name == "--log") options.log = value();
    else if (name == "--rows") options.is_rows = true;
    else if (name == "--time") options.is_timing = true;
    else if (name == "--no-check") options.has_checks = false;
    else if (name == "--cold") options.is_cold = true;
    else if (name == "--verbose") options.is_verbose = true;
    else if (name == "--list") options.is_list = true;
    else if (name == "--resume-at") options.resume_at = std::stoi(value());
    else if (name == "--failures") options.failures = std::stoi(value());
    else if (name == "--kernel") {
      std::string kernel = value();
      for (int k = 0; k < std::ssize(kernel_names); k++)
        if (kernel == kernel_names[k]) options.kernel = MlaKernel(k);
      if (!options.kernel) refuse("--kernel must be forward, delta, dq, dkv or backward, got " + kernel);
    } else if (name == "--help") {
      std::printf("%s", usage);
      std::exit(0);
    } else refuse("unknown option " + name);
  }
  if (!options.family.empty() && options.family != "general" && options.family != "sm80" && options.family != "sm90")
    refuse("--family must be general, sm80 or sm90, got " + options.family);
  return options;
}

std::string name_of(const Case &c, const Numbers &numbers) { return c.name + " [" + numbers.name + "]"; }

bool is_wanted(const Options &options, const Case &c, size_t numbers) {
  if (!(c.numbers >> numbers & 1) || c.is_timed != options.is_timing) return false;
  for (const std::string &filter : options.filters)
    if (name_of(c, all_numbers[numbers]).find(filter) == std::string::npos) return false;
  return true;
}

bool is_any_wanted(const Options &options) {
  for (const Case &c : all_cases())
    for (size_t n = 0; n < all_numbers.size(); n++)
      if (is_wanted(options, c, n)) return true;
  return false;
}

// What became of a kernel's checks with some numbers.
struct Tally {
  int passed = 0, failed = 0;
  double worst = 0;
  std::string worst_case;
  std::map<std::string, std::vector<std::string>> others; // not served and the like: of which cases
};

class Session {
public:
  Session(const Options &o, char **arguments_) : options(o), arguments(arguments_), planner(o.family) {
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    if (!options.log.empty()) log = std::fopen(options.log.c_str(), options.resume_at ? "a" : "w");
    failures = options.failures;
  }

  int run() {
    print_device();
    for (const Case &c : all_cases())
      for (MlaType type : {MLA_FLOAT32, MLA_FLOAT16, MLA_BFLOAT16}) run_type(c, type);
    print_summary();
    return failures || is_nothing_checked() ? 1 : 0;
  }

private:
  const Options &options;
  char **arguments;
  Planner planner;
  cudaStream_t stream;
  std::FILE *log = nullptr;
  int step = 0, failures = 0;
  std::map<std::pair<int, size_t>, Tally> tallies;

  void print_device() {
    cudaDeviceProp properties;
    cuda_check(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
    std::printf("%s, sm_%d, %d multiprocessors\n", properties.name, planner.device().capability,
                planner.device().multiprocessors);
    if (options.is_timing && !options.resume_at)
      std::printf("a copy of 1 GiB: %.0f GB/s read and written\n", copy_bytes_per_s(stream) / 1e9);
    std::fflush(stdout);
  }

  void run_type(const Case &c, MlaType type) {
    std::optional<CaseRun> run;
    for (size_t n = 0; n < all_numbers.size(); n++) {
      if (all_numbers[n].type != type || !is_wanted(options, c, n)) continue;
      for (int k = 0; k < std::ssize(kernel_names); k++) {
        bool is_there = k != MLA_BACKWARD || !c.is_decode;
        if (is_there && (!options.kernel || *options.kernel == k)) run_kernel(run, c, MlaKernel(k), n);
      }
      if (options.is_timing && !options.kernel) time_kernel(run, c, nullptr, n);
    }
  }

  CaseRun &prepared(std::optional<CaseRun> &run, const Case &c, size_t numbers) {
    if (!run) run.emplace(c, all_numbers[numbers].type, planner, stream);
    return *run;
  }

  void run_kernel(std::optional<CaseRun> &run, const Case &c, MlaKernel kernel, size_t numbers) {
    if (options.has_checks && step++ >= options.resume_at) {
      std::string what = std::string(kernel_names[kernel]) + " of " + name_of(c, all_numbers[numbers]);
      try {
        record(c, kernel, numbers, prepared(run, c, numbers).check(kernel, all_numbers[numbers]));
      } catch (const DeviceLost &lost) {
        start_again(what + ": " + lost.what());
      }
    }
    if (options.is_timing) time_kernel(run, c, &kernel, numbers);
  }

  void time_kernel(std::optional<CaseRun> &run, const Case &c, const MlaKernel *kernel, size_t numbers) {
    if (step++ < options.resume_at) return;
    std::string what = !kernel ? "forward+backward" : *kernel == MLA_BACKWARD ? "backward with delta" : kernel_names[*kernel];
    try {
      Result result = prepared(run, c, numbers).time(kernel, all_numbers[numbers], options.is_cold);
      if (result.verdict == Verdict::passed)
        print("%s  %s %s  %s\n", name_of(c, all_numbers[numbers]), what, result.family, result.text);
      if (result.verdict == Verdict::failed) fail(what + " of " + name_of(c, all_numbers[numbers]) + ": " + result.text);
    } catch (const DeviceLost &lost) {
      start_again(what + " of " + name_of(c, all_numbers[numbers]) + ": " + lost.what());
    }
  }

  void print(const char *format, const auto &...texts) {
    std::printf(format, texts.c_str()...);
    std::fflush(stdout);
    if (!log) return;
    std::fprintf(log, format, texts.c_str()...);
    std::fflush(log);
  }

  void fail(const std::string &what) {
    failures++;
    print("FAIL %s\n", what);
  }

  void record(const Case &c, MlaKernel kernel, size_t numbers, const Result &result) {
    static const char *const whys[] = {"", "", "no family serves", "not in this build", "not checked: needs a forward"};
    Tally &tally = tallies[{kernel, numbers}];
    std::string name = name_of(c, all_numbers[numbers]), of = std::string(kernel_names[kernel]) + " of " + name;
    std::string family = result.family.empty() ? "" : " (" + result.family + ")";
    if (result.verdict == Verdict::passed || result.verdict == Verdict::failed) {
      if (result.of_bound >= tally.worst) tally.worst = result.of_bound, tally.worst_case = c.name;
    } else {
      tally.others[whys[int(result.verdict)]].push_back(c.name);
      if (result.verdict == Verdict::not_served && options.family.empty()) failures++;
    }
    if (result.verdict == Verdict::failed) tally.failed++, fail(of + family + ": " + result.text);
    if (result.verdict != Verdict::passed) return;
    tally.passed++;
    std::string line = "ok " + of + family + ": " + result.text + "\n";
    if (options.is_verbose) std::printf("%s", line.c_str());
    if (log) std::fputs(line.c_str(), log);
  }

  // A fault ends every context of the process: the rest is for a new one.
  [[noreturn]] void start_again(const std::string &failure) {
    fail(failure);
    print_summary();
    std::vector<std::string> texts;
    for (char **argument = arguments; *argument; argument++) {
      if (!std::strcmp(*argument, "--resume-at") || !std::strcmp(*argument, "--failures")) argument++;
      else texts.push_back(*argument);
    }
    texts.insert(texts.end(), {"--resume-at", std::to_string(step), "--failures", std::to_string(failures)});
    std::vector<char *> again;
    for (std::string &text : texts) again.push_back(text.data());
    again.push_back(nullptr);
    execv("/proc/self/exe", again.data());
    std::perror("harness: cannot start again");
    std::exit(2);
  }

  // Not even one: of a build that lacks the modules, say.
  bool is_nothing_checked() const {
    if (!options.has_checks || options.resume_at) return false;
    for (const auto &[key, tally] : tallies)
      if (tally.passed + tally.failed) return false;
    return true;
  }

  void print_summary() {
    for (const auto &[key, tally] : tallies) {
      std::string what = std::string(kernel_names[key.first]) + " [" + all_numbers[key.second].name + "]";
      if (tally.passed + tally.failed)
        std::printf("%s: %d passed, %d failed; worst error %.2f of its bound (%s)\n", what.c_str(), tally.passed,
                    tally.failed, tally.worst, tally.worst_case.c_str());
      for (const auto &[why, names] : tally.others) {
        std::printf("%s: %s: %zu", what.c_str(), why.c_str(), names.size());
        if (names.size() <= 12 || options.is_verbose)
          for (const std::string &name : names) std::printf("; %s", name.c_str());
        std::printf("\n");
        for (const std::string &name : names)
          if (log) std::fprintf(log, "%s: %s: %s\n", what.c_str(), why.c_str(), name.c_str());
      }
    }
    std::printf("%s\n", failures ? "FAILED" : is_nothing_checked() ? "nothing was checked" : "all passed");
    std::fflush(stdout);
  }
};

int check_rows(const Options &options) {
  cudaStream_t stream;
  cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  int failures = 0;
  std::vector<RowResult> results = run_rows(options.filters, options.is_timing, options.is_cold, stream);
  for (const RowResult &result : results) {
    failures += result.is_failed;
    if (result.is_failed || options.is_verbose || options.is_timing)
      std::printf("%s%s: %s\n", result.is_failed ? "FAIL " : "", result.name.c_str(), result.text.c_str());
  }
  std::printf("%zu results, %s\n", results.size(), results.empty() ? "nothing was checked" : failures ? "FAILED" : "all passed");
  return failures || results.empty() ? 1 : 0;
}

} // namespace

int main(int count, char **arguments) {
  Options options = options_of(count, arguments);
  if (options.is_list) {
    for (const Case &c : all_cases())
      for (size_t n = 0; n < all_numbers.size(); n++)
        if (c.numbers >> n & 1) std::printf("%s\n", name_of(c, all_numbers[n]).c_str());
    return 0;
  }
  if (!options.is_rows && !is_any_wanted(options)) refuse("no case's name holds every --filter");
  cuda_check(cudaSetDevice(0), "cudaSetDevice");
  cuda_check(cudaFree(nullptr), "making a context");
  if (const char *error = mla_cuda_open()) refuse(error);
  return options.is_rows ? check_rows(options) : Session(options, arguments).run();
}
