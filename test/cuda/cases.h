// The table of cases: what is asked of the kernels, and of which numbers.
#pragma once

#include <string>
#include <vector>

extern "C" {
#include "../../kernels/cuda/mla_params.h"
}

enum class Layout { bshd, bhsd, sbhd };

// What the tensors hold and what float32 tensors are multiplied as.
struct Numbers {
  const char *name;
  MlaType type;
  MlaPrecision precision;
  double roundoff; // of the operands' format: half of its epsilon
};

enum : unsigned {
  FLOAT32 = 1,
  AS_TF32 = 2,
  AS_FLOAT16 = 4,
  AS_BFLOAT16 = 8,
  FLOAT16 = 16,
  BFLOAT16 = 32,
  TENSORS = FLOAT32 | FLOAT16 | BFLOAT16,
  ALL_NUMBERS = 63,
};

// The numbers of bit i of a case's `numbers` are all_numbers[i].
extern const std::vector<Numbers> all_numbers;

enum class Inputs {
  normal,
  rising, // scores that grow with the key: the largest is in the last tile
  sink,   // one key that a row meets with a logit of +60
};

constexpr int UNBOUNDED = 1 << 29;

struct Case {
  std::string name;
  int batch = 1, hq = 2, hkv = 0; // 0: as many as hq
  int sq = 33, skv = -1;          // -1: as many as sq
  int dn = 128, dr = 64, dv = 128;
  bool is_decode = false;
  int left = UNBOUNDED, right = UNBOUNDED;
  bool is_top_left = false;
  std::vector<int> q_lengths = {}, kv_lengths = {};
  unsigned numbers = ALL_NUMBERS;
  Layout layout = Layout::bshd;
  int pad = 0; // elements between rows
  float softmax_scale = NAN_SCALE; // NAN_SCALE: 1/sqrt(dn + dr), or 1/sqrt(192) in decode
  Inputs inputs = Inputs::normal;
  float q_scale = 1, k_scale = 1, v_scale = 1, d_out_scale = 1, d_out_mean = 0, v_mean = 0;
  float first_head_scale = 1; // of q and v, and 1 / it of k and d_out: scores and dS stay as they are
  bool has_d_lse = false;
  bool is_timed = false;

  static constexpr float NAN_SCALE = -12345;
  int key_heads() const { return is_decode ? 1 : hkv ? hkv : hq; }
  int keys() const { return skv < 0 ? sq : skv; }
  int dqk() const { return dn + dr; }
  float scale() const;
  int q_length(int b) const { return q_lengths.empty() ? sq : q_lengths[b]; }
  int kv_length(int b) const { return kv_lengths.empty() ? keys() : kv_lengths[b]; }
  // The keys that row i sees are [lo, hi); the rows that see key j likewise.
  struct Range {
    int lo, hi;
  };
  Range visible_keys(int b, int i) const;
  Range seeing_rows(int b, int j) const;
  double visible_pairs() const; // of one head, over the batch
};

// The small ones, for correctness, and the shapes that are timed.
const std::vector<Case> &all_cases();
