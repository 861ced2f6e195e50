#include "timing.h"

#include <algorithm>
#include <cstdio>
#include <vector>

namespace {

constexpr int REPEATS = 25;

struct Event {
  cudaEvent_t event;
  Event() { cuda_check(cudaEventCreate(&event), "cudaEventCreate"); }
  ~Event() { cudaEventDestroy(event); }
  Event(const Event &) = delete;
  Event &operator=(const Event &) = delete;
  void record(cudaStream_t stream) { cuda_check(cudaEventRecord(event, stream), "cudaEventRecord"); }
};

double ms_between(const Event &start, const Event &end) {
  float ms;
  cuda_check(cudaEventElapsedTime(&ms, start.event, end.event), "cudaEventElapsedTime");
  return ms;
}

void synchronize(cudaStream_t stream) { cuda_check(cudaStreamSynchronize(stream), "cudaStreamSynchronize"); }

// Overwrites more than the L2 cache holds.
void flush_cache(cudaStream_t stream) {
  static Guarded memory(size_t(256) << 20);
  cuda_check(cudaMemsetAsync(memory.start(), 0, memory.size(), stream), "cudaMemsetAsync");
}

std::vector<double> single_calls(const std::function<void()> &launch, cudaStream_t stream, bool is_cold) {
  std::vector<Event> starts(REPEATS), ends(REPEATS);
  keep_busy(stream, 2);
  for (int i = 0; i < REPEATS; i++) {
    if (is_cold) flush_cache(stream);
    starts[i].record(stream);
    launch();
    ends[i].record(stream);
  }
  synchronize(stream);
  std::vector<double> times;
  for (int i = 0; i < REPEATS; i++) times.push_back(ms_between(starts[i], ends[i]));
  std::sort(times.begin(), times.end());
  return times;
}

double in_a_row(const std::function<void()> &launch, cudaStream_t stream, int calls) {
  Event start, end;
  keep_busy(stream, 2);
  start.record(stream);
  for (int i = 0; i < calls; i++) launch();
  end.record(stream);
  synchronize(stream);
  return ms_between(start, end) / calls;
}

} // namespace

Timing time_calls(const std::function<void()> &launch, cudaStream_t stream, bool is_cold) {
  constexpr double HEAT_MS = 60;
  launch();
  synchronize(stream);
  double once_ms = in_a_row(launch, stream, 1);
  in_a_row(launch, stream, std::clamp(int(HEAT_MS / once_ms), 1, 400));
  Timing timing;
  timing.mhz_before = clock_mhz(stream);
  std::vector<double> times = single_calls(launch, stream, is_cold);
  timing.stream_ms = in_a_row(launch, stream, REPEATS);
  timing.mhz_after = clock_mhz(stream);
  timing.median_ms = times[times.size() / 2], timing.least_ms = times.front(), timing.most_ms = times.back();
  return timing;
}

double copy_bytes_per_s(cudaStream_t stream) {
  Guarded from(size_t(1) << 30), to(size_t(1) << 30);
  Timing timing = time_calls(
      [&] {
        cuda_check(cudaMemcpyAsync(to.start(), from.start(), to.size(), cudaMemcpyDeviceToDevice, stream), "cudaMemcpy");
      },
      stream, false);
  return 2.0 * double(to.size()) / (timing.median_ms / 1e3);
}

std::string text_of(const Timing &t, double flops, double bytes) {
  char text[200];
  std::snprintf(text, sizeof text, "%.4f ms (%.4f-%.4f, in a row %.4f)  %.0f TFLOP/s  %.0f GB/s  %.0f-%.0f MHz",
                t.median_ms, t.least_ms, t.most_ms, t.stream_ms, flops / t.median_ms / 1e9, bytes / t.median_ms / 1e6,
                t.mhz_before, t.mhz_after);
  return text;
}
