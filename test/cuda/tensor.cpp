#include "tensor.h"

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

void parallel_for(int64_t count, const std::function<void(int64_t)> &work) {
  std::atomic<int64_t> next = 0;
  auto take = [&] {
    for (int64_t i; (i = next++) < count;) work(i);
  };
  std::vector<std::thread> threads;
  int64_t most = std::min<int64_t>(count, std::max(1u, std::thread::hardware_concurrency()));
  for (int64_t i = 1; i < most; i++) threads.emplace_back(take);
  take();
  for (std::thread &thread : threads) thread.join();
}

void cuda_check(cudaError_t result, const char *what) {
  if (result == cudaSuccess) return;
  std::fprintf(stderr, "harness: %s failed: %s\n", what, cudaGetErrorString(result));
  std::exit(2);
}

size_t bytes_of(MlaType type) { return type == MLA_FLOAT32 ? 4 : 2; }

static uint16_t bfloat16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  if (std::isnan(value)) return 0xffff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void store(uint8_t *to, float value, MlaType type) {
  if (type == MLA_FLOAT32) std::memcpy(to, &value, 4);
  if (type == MLA_BFLOAT16) {
    uint16_t bits = bfloat16_bits(value);
    std::memcpy(to, &bits, 2);
  }
  if (type == MLA_FLOAT16) {
    _Float16 half = std::isnan(value) ? _Float16(value) : _Float16(std::fmin(std::fmax(value, -65504.0f), 65504.0f));
    std::memcpy(to, &half, 2);
  }
}

static float load(const uint8_t *from, MlaType type) {
  float value;
  if (type == MLA_FLOAT32) {
    std::memcpy(&value, from, 4);
  } else if (type == MLA_FLOAT16) {
    _Float16 half;
    std::memcpy(&half, from, 2);
    value = float(half);
  } else {
    uint16_t bits;
    std::memcpy(&bits, from, 2);
    uint32_t wide = uint32_t(bits) << 16;
    std::memcpy(&value, &wide, 4);
  }
  return value;
}

// To 10 bits after the point, halves away from zero, as cvt.rna.tf32 does it.
static float rounded_to_tf32(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits = (bits + 0x1000) & ~0x1fffu;
  std::memcpy(&value, &bits, 4);
  return value;
}

float rounded(float value, MlaType type) {
  uint8_t bytes[4] = {};
  store(bytes, value, type);
  return load(bytes, type);
}

float rounded(float value, MlaPrecision precision) {
  switch (precision) {
    case MLA_AS_FLOAT32: return value;
    case MLA_AS_TF32: return rounded_to_tf32(value);
    case MLA_AS_FLOAT16: return rounded(value, MLA_FLOAT16);
    case MLA_AS_BFLOAT16: return rounded(value, MLA_BFLOAT16);
  }
  return value;
}

std::string Values::position_name(size_t element) const {
  size_t row = element / depth, head = row / positions;
  char text[96];
  std::snprintf(text, sizeof text, "[b=%zu, h=%zu, s=%zu, d=%zu]", head / heads, head % heads, row % positions,
                element % depth);
  return text;
}

Guarded::Guarded(size_t size) : bytes(size) {
  cuda_check(cudaMalloc(&base, bytes + 2 * GUARD_BYTES), "cudaMalloc");
  poison(0xff);
}

Guarded &Guarded::operator=(Guarded &&other) noexcept {
  std::swap(base, other.base);
  std::swap(bytes, other.bytes);
  return *this;
}

Guarded::~Guarded() { cudaFree(base); }

void Guarded::poison(uint8_t byte) { cuda_check(cudaMemset(base, byte, bytes + 2 * GUARD_BYTES), "cudaMemset"); }

std::vector<uint8_t> Guarded::everything() const {
  std::vector<uint8_t> all(bytes + 2 * GUARD_BYTES);
  cuda_check(cudaMemcpy(all.data(), base, all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy to the host");
  return all;
}

DeviceTensor::DeviceTensor(const Values &values, MlaType element, Layout layout, int pad)
    : shape{values.name, values.batch, values.heads, values.positions, values.depth}, type(element) {
  int64_t row = values.depth + pad, heads = values.heads, positions = values.positions, batch = values.batch;
  switch (layout) {
    case Layout::bshd: position_stride = heads * row, head_stride = row, batch_stride = positions * heads * row; break;
    case Layout::bhsd: position_stride = row, head_stride = positions * row, batch_stride = positions * heads * row; break;
    case Layout::sbhd: position_stride = batch * heads * row, head_stride = row, batch_stride = heads * row; break;
  }
  memory = Guarded(size_t(batch * heads * positions * row) * bytes_of(type));
  if (heads == 1) head_stride = 0;
}

MlaRows DeviceTensor::rows(int first_column) const {
  char *first = static_cast<char *>(memory.start()) + first_column * bytes_of(type);
  return {first, batch_stride, position_stride, head_stride};
}

void DeviceTensor::upload(const Values &values, std::span<const int> lengths) {
  std::vector<uint8_t> bytes(memory.size(), 0xff);
  parallel_for(int64_t(shape.batch) * shape.positions, [&](int64_t task) {
    int b = int(task / shape.positions), s = int(task % shape.positions);
    if (!lengths.empty() && s >= lengths[b]) return;
    for (int h = 0; h < shape.heads; h++) {
      uint8_t *to = bytes.data() + offset(b, h, s) * bytes_of(type);
      const float *from = values.row(b, h, s);
      for (int d = 0; d < shape.depth; d++) store(to + d * bytes_of(type), from[d], type);
    }
  });
  cuda_check(cudaMemcpy(memory.start(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "cudaMemcpy to the device");
}

Values DeviceTensor::download(uint8_t poison, std::string &touched) const {
  std::vector<uint8_t> all = memory.everything();
  size_t width = bytes_of(type);
  Values values = shape;
  values.data.resize(shape.rows() * shape.depth);
  parallel_for(int64_t(shape.batch) * shape.positions, [&](int64_t task) {
    int b = int(task / shape.positions), s = int(task % shape.positions);
    for (int h = 0; h < shape.heads; h++) {
      uint8_t *from = all.data() + Guarded::GUARD_BYTES + offset(b, h, s) * width;
      float *to = values.row(b, h, s);
      for (int d = 0; d < shape.depth; d++) to[d] = load(from + d * width, type);
      std::memset(from, poison, shape.depth * width);
    }
  });
  for (size_t i = 0; i < all.size(); i++) {
    if (all[i] == poison) continue;
    int64_t from_start = int64_t(i) - int64_t(Guarded::GUARD_BYTES);
    touched = shape.name + ": written outside of its rows, at byte " + std::to_string(from_start) + " of " +
              std::to_string(memory.size());
    break;
  }
  return values;
}
