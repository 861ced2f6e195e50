// Times on the device, of warm clocks: see design/performance.md.
#pragma once

#include <functional>
#include <string>

#include "tensor.h"

// Work for about so long, so that what is queued behind it waits for nothing.
void keep_busy(cudaStream_t stream, double ms);

// The multiprocessors' clock, now.
double clock_mhz(cudaStream_t stream);

struct Timing {
  double median_ms, least_ms, most_ms; // of single calls, between events
  double stream_ms;                    // a call in a row of them
  double mhz_before, mhz_after;
};

// `launch` puts one call into the stream. `is_cold`: with nothing of it in the L2 cache.
Timing time_calls(const std::function<void()> &launch, cudaStream_t stream, bool is_cold);

// Bytes read and written a second by a large copy.
double copy_bytes_per_s(cudaStream_t stream);

// "0.186 ms (0.185-0.190, in a row 0.184)  461 TFLOP/s  1230 GB/s  1755 MHz"
std::string text_of(const Timing &timing, double flops, double bytes);
