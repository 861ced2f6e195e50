#include "timing.h"

// Keeps every multiprocessor busy for so many cycles and tells cycles and nanoseconds of the first.
__global__ void spin(long long cycles, long long *spent) {
  long long start_ns, end_ns, start = clock64();
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(start_ns));
  float x = float(threadIdx.x);
  while (clock64() - start < cycles)
    for (int i = 0; i < 64; i++) x = x * 0.999f + 0.5f;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(end_ns));
  if (blockIdx.x || threadIdx.x) return;
  spent[0] = clock64() - start;
  spent[1] = end_ns - start_ns;
  spent[2] = (long long)x;
}

static long long *spent() {
  static long long *memory;
  if (!memory) cuda_check(cudaMalloc(&memory, 3 * sizeof(long long)), "cudaMalloc");
  return memory;
}

void keep_busy(cudaStream_t stream, double ms) {
  spin<<<264, 256, 0, stream>>>((long long)(ms * 1.7e6), spent());
  cuda_check(cudaGetLastError(), "launch of the probe");
}

double clock_mhz(cudaStream_t stream) {
  long long host[3];
  keep_busy(stream, 1);
  cuda_check(cudaMemcpyAsync(host, spent(), sizeof host, cudaMemcpyDeviceToHost, stream), "cudaMemcpy of the probe");
  cuda_check(cudaStreamSynchronize(stream), "the probe");
  return 1e3 * double(host[0]) / double(host[1]);
}
