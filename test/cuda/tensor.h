// Tensors: their values on the host, and their rows on the device, inside larger buffers.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "cases.h"

// Runs work(0) to work(count - 1) on all processors.
void parallel_for(int64_t count, const std::function<void(int64_t)> &work);

// Ends the program with the sentence of a failed call of CUDA that no kernel is to blame for.
void cuda_check(cudaError_t result, const char *what);

size_t bytes_of(MlaType type);

// The nearest value of a type; halves saturate.
float rounded(float value, MlaType type);
float rounded(float value, MlaPrecision precision);

// [batch][head][position][column] of floats, whatever the layout on the device.
struct Values {
  std::string name;
  int batch = 0, heads = 0, positions = 0, depth = 0;
  std::vector<float> data = {};

  size_t rows() const { return size_t(batch) * heads * positions; }
  size_t index(int b, int h, int position) const { return ((size_t(b) * heads + h) * positions + position) * depth; }
  const float *row(int b, int h, int position) const { return data.data() + index(b, h, position); }
  float *row(int b, int h, int position) { return data.data() + index(b, h, position); }
  std::string position_name(size_t element) const; // as in [b=0, h=1, s=2, d=3]
};

// Device memory with a guard before and behind it.
class Guarded {
public:
  Guarded() = default;
  explicit Guarded(size_t bytes);
  Guarded(Guarded &&other) noexcept { *this = std::move(other); }
  Guarded &operator=(Guarded &&other) noexcept;
  ~Guarded();
  void *start() const { return base ? base + GUARD_BYTES : nullptr; }
  size_t size() const { return bytes; }
  void poison(uint8_t byte);
  std::vector<uint8_t> everything() const; // guards included
  static constexpr size_t GUARD_BYTES = 4096;

private:
  uint8_t *base = nullptr;
  size_t bytes = 0;
};

// The rows of a tensor on the device.
class DeviceTensor {
public:
  DeviceTensor() = default;
  // `pad` elements between rows. A tensor that all heads share has one head and the stride 0.
  DeviceTensor(const Values &shape, MlaType type, Layout layout, int pad);

  MlaRows rows(int first_column = 0) const;
  void *start() const { return memory.start(); }
  int64_t elements() const { return int64_t(shape.rows()) * shape.depth; }
  // Everything becomes this byte; 0xff makes NaN of every type.
  void poison(uint8_t byte) { memory.poison(byte); }
  // Writes the rows, with NaN instead of those from a batch entry's length on (none given: all are real).
  void upload(const Values &values, std::span<const int> lengths = {});
  // Reads the rows. `touched` becomes a sentence if what is not theirs no longer is the poison.
  Values download(uint8_t poison, std::string &touched) const;

private:
  Values shape; // without data
  MlaType type = MLA_FLOAT32;
  int64_t batch_stride = 0, head_stride = 0, position_stride = 0;
  Guarded memory;

  int64_t offset(int b, int h, int position) const {
    return b * batch_stride + h * head_stride + position * position_stride;
  }
};
