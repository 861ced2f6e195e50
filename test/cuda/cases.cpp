#include "cases.h"

#include <algorithm>
#include <cmath>

const std::vector<Numbers> all_numbers = {
    {"float32", MLA_FLOAT32, MLA_AS_FLOAT32, 0x1p-24},
    {"float32 as tf32", MLA_FLOAT32, MLA_AS_TF32, 0x1p-11},
    {"float32 as float16", MLA_FLOAT32, MLA_AS_FLOAT16, 0x1p-11},
    {"float32 as bfloat16", MLA_FLOAT32, MLA_AS_BFLOAT16, 0x1p-9},
    {"float16", MLA_FLOAT16, MLA_AS_FLOAT16, 0x1p-11},
    {"bfloat16", MLA_BFLOAT16, MLA_AS_BFLOAT16, 0x1p-9},
};

float Case::scale() const {
  if (softmax_scale != NAN_SCALE) return softmax_scale;
  return 1 / std::sqrt(is_decode ? 192.0f : float(dqk()));
}

Case::Range Case::visible_keys(int b, int i) const {
  int rows = q_length(b), keys = kv_length(b);
  int diagonal = is_top_left ? i : i + keys - rows;
  if (i >= rows) return {0, 0};
  Range seen = {std::max(0, diagonal - left), std::min(keys, diagonal + right + 1)};
  return seen.hi > seen.lo ? seen : Range{0, 0};
}

Case::Range Case::seeing_rows(int b, int j) const {
  int rows = q_length(b), keys = kv_length(b);
  int diagonal = is_top_left ? j : j - keys + rows;
  if (j >= keys) return {0, 0};
  Range seeing = {std::max(0, diagonal - right), std::min(rows, diagonal + left + 1)};
  return seeing.hi > seeing.lo ? seeing : Range{0, 0};
}

double Case::visible_pairs() const {
  double pairs = 0;
  for (int b = 0; b < batch; b++)
    for (int i = 0; i < sq; i++) {
      Range seen = visible_keys(b, i);
      pairs += seen.hi - seen.lo;
    }
  return pairs;
}

const std::vector<Case> &all_cases() {
  constexpr Layout bhsd = Layout::bhsd, sbhd = Layout::sbhd;
  constexpr unsigned sixteen_bits = FLOAT16 | BFLOAT16;
  static const std::vector<Case> cases = {
      // the head sizes of the models, some tiles and a piece of one
      {.name = "192/128 causal", .batch = 2, .sq = 129, .right = 0},
      {.name = "192/128 one tensor for all columns of k", .sq = 129, .dn = 192, .dr = 0, .right = 0},
      {.name = "192/128 full", .batch = 2, .hq = 3, .sq = 130, .skv = 100, .layout = bhsd},
      {.name = "192/128 many tiles", .sq = 515, .skv = 700, .right = 0},
      {.name = "192/128 many blocks", .batch = 4, .hq = 16, .sq = 820, .skv = 330, .numbers = TENSORS | AS_TF32},
      {.name = "192/128 many blocks, padded", .batch = 4, .hq = 16, .sq = 400, .skv = 520, .right = 0,
       .q_lengths = {400, 0, 77, 399}, .kv_lengths = {520, 130, 0, 333}, .numbers = TENSORS},
      {.name = "192/128 one row", .hq = 3, .sq = 1, .skv = 300},
      {.name = "192/128 whole tiles", .batch = 2, .sq = 256, .right = 0, .numbers = TENSORS},
      {.name = "128/128 causal", .sq = 150, .dn = 128, .dr = 0, .dv = 128, .right = 0},
      {.name = "128/128 rope apart", .sq = 97, .skv = 140, .dn = 64, .dr = 64, .dv = 128},
      {.name = "96/64 causal", .batch = 2, .sq = 129, .skv = 113, .dn = 64, .dr = 32, .dv = 64, .right = 0},
      {.name = "96/64 one tensor for all columns of k", .sq = 70, .dn = 96, .dr = 0, .dv = 64, .right = 0},
      {.name = "64/64 causal", .hq = 3, .sq = 200, .dn = 64, .dr = 0, .dv = 64, .right = 0, .layout = bhsd},
      {.name = "64/64 rope apart", .sq = 65, .skv = 64, .dn = 32, .dr = 32, .dv = 64},

      // other sizes, and sizes that mean nothing
      {.name = "7/5 odd columns", .batch = 2, .hq = 3, .sq = 45, .skv = 67, .dn = 4, .dr = 3, .dv = 5, .right = 0,
       .has_d_lse = true},
      {.name = "1/1 one of everything", .hq = 1, .sq = 1, .dn = 1, .dr = 0, .dv = 1, .has_d_lse = true},
      {.name = "6/41 wider values than keys", .sq = 70, .dn = 6, .dr = 0, .dv = 41, .right = 0, .layout = bhsd},
      {.name = "6/10 the whole key is shared", .batch = 2, .hq = 3, .sq = 39, .dn = 0, .dr = 6, .dv = 10, .right = 0},
      {.name = "40/24 small heads", .hq = 16, .hkv = 4, .sq = 113, .skv = 129, .dn = 32, .dr = 8, .dv = 24,
       .right = 0, .is_top_left = true, .layout = sbhd},
      {.name = "256/256 wide", .sq = 129, .skv = 113, .dn = 192, .dr = 64, .dv = 256, .right = 0},
      {.name = "576/512 wide", .sq = 37, .skv = 70, .dn = 512, .dr = 64, .dv = 512, .right = 0, .numbers = TENSORS},
      {.name = "192/128 empty batch", .batch = 0, .numbers = TENSORS},
      {.name = "192/128 no rows", .batch = 2, .sq = 0, .skv = 5, .numbers = TENSORS},
      {.name = "192/128 no keys", .batch = 2, .hq = 3, .sq = 5, .skv = 0, .numbers = TENSORS},
      {.name = "7/5 no keys", .sq = 5, .skv = 0, .dn = 4, .dr = 3, .dv = 5, .numbers = TENSORS},

      // grouped heads
      {.name = "192/128 8 heads on 2", .batch = 2, .hq = 8, .hkv = 2, .sq = 80, .skv = 90, .right = 0},
      {.name = "192/128 16 heads on 1", .hq = 16, .hkv = 1, .sq = 67, .right = 0, .layout = sbhd},
      {.name = "64/64 6 heads on 3", .hq = 6, .hkv = 3, .sq = 77, .dn = 64, .dr = 0, .dv = 64, .right = 0},
      {.name = "96/64 8 heads on 2", .hq = 8, .hkv = 2, .sq = 66, .dn = 64, .dr = 32, .dv = 64},

      // masks
      {.name = "192/128 rows that see nothing", .hq = 3, .sq = 210, .skv = 75, .right = 0, .layout = bhsd,
       .has_d_lse = true},
      {.name = "192/128 top left", .sq = 140, .right = 0, .is_top_left = true},
      {.name = "192/128 top left, too many rows", .sq = 210, .skv = 80, .right = 0, .is_top_left = true},
      {.name = "192/128 top left, too many keys", .sq = 80, .skv = 210, .right = 0, .is_top_left = true,
       .layout = sbhd},
      {.name = "192/128 ragged keys", .batch = 3, .sq = 80, .skv = 141, .right = 0, .kv_lengths = {141, 8, 73}},
      {.name = "192/128 ragged keys, full", .batch = 3, .sq = 66, .skv = 137, .kv_lengths = {137, 65, 1},
       .layout = bhsd},
      {.name = "192/128 ragged rows", .batch = 3, .sq = 120, .skv = 95, .q_lengths = {120, 1, 70}, .layout = sbhd},
      {.name = "192/128 padded batch", .batch = 3, .sq = 140, .right = 0, .q_lengths = {140, 9, 77},
       .kv_lengths = {140, 9, 77}, .has_d_lse = true},
      {.name = "192/128 lengths 0", .batch = 4, .sq = 50, .skv = 72, .q_lengths = {50, 0, 33, 0},
       .kv_lengths = {0, 72, 70, 0}},
      {.name = "192/128 padded, top left", .batch = 2, .sq = 133, .skv = 111, .right = 0, .is_top_left = true,
       .q_lengths = {60, 133}, .kv_lengths = {111, 50}},
      {.name = "192/128 window to the left", .sq = 300, .left = 70, .right = 0},
      {.name = "192/128 window both sides", .sq = 200, .skv = 230, .left = 35, .right = 13, .layout = bhsd},
      {.name = "192/128 window to the right", .sq = 120, .skv = 200, .right = 12},
      {.name = "192/128 window of the diagonal", .batch = 2, .sq = 120, .left = 0, .right = 0, .layout = sbhd,
       .has_d_lse = true},
      {.name = "192/128 window beside the keys", .sq = 250, .skv = 60, .left = 20, .right = 10, .is_top_left = true},
      {.name = "192/128 window that begins past the first tile", .sq = 70, .skv = 400, .left = 90, .right = 5},
      {.name = "192/128 ragged window", .batch = 2, .hq = 8, .hkv = 2, .sq = 140, .skv = 220, .left = 40, .right = 22,
       .q_lengths = {140, 50}, .kv_lengths = {90, 220}},
      {.name = "64/64 window to the left", .sq = 150, .dn = 64, .dr = 0, .dv = 64, .left = 33, .right = 0},
      {.name = "128/128 padded batch", .batch = 3, .sq = 140, .dn = 128, .dr = 0, .dv = 128, .right = 0,
       .q_lengths = {140, 9, 77}, .kv_lengths = {140, 65, 0}},
      {.name = "96/64 ragged window", .batch = 2, .sq = 90, .skv = 120, .dn = 64, .dr = 32, .dv = 64, .left = 40,
       .right = 2, .q_lengths = {90, 50}, .kv_lengths = {70, 120}},
      {.name = "40/24 padded batch", .batch = 3, .sq = 90, .skv = 80, .dn = 32, .dr = 8, .dv = 24, .right = 0,
       .q_lengths = {90, 0, 33}, .kv_lengths = {80, 9, 77}},

      // where the rows lie
      {.name = "192/128 rows 16 apart", .batch = 2, .sq = 129, .right = 0, .pad = 16},
      {.name = "192/128 rows 3 apart", .batch = 2, .sq = 70, .right = 0, .pad = 3},
      {.name = "64/64 rows 8 apart, bhsd", .batch = 2, .sq = 129, .dn = 64, .dr = 0, .dv = 64, .right = 0,
       .layout = bhsd, .pad = 8},

      // numbers
      {.name = "192/128 scale 0", .sq = 70, .right = 0, .softmax_scale = 0},
      {.name = "192/128 negative scale", .sq = 70, .right = 0, .softmax_scale = -0.1f},
      {.name = "192/128 largest score in the last tile", .sq = 200, .skv = 400, .inputs = Inputs::rising},
      {.name = "192/128 sink of +60", .sq = 200, .right = 0, .inputs = Inputs::sink},
      {.name = "40/24 largest score in the last tile", .sq = 100, .skv = 300, .dn = 32, .dr = 8, .dv = 24,
       .inputs = Inputs::rising},
      {.name = "192/128 dOut of 1e-6", .sq = 129, .right = 0, .numbers = ALL_NUMBERS & ~FLOAT16, .d_out_scale = 1e-6f},
      {.name = "192/128 dOut of 1e-3", .sq = 129, .right = 0, .numbers = FLOAT16, .d_out_scale = 1e-3f},
      {.name = "192/128 dOut of 1e3", .sq = 129, .right = 0, .numbers = ALL_NUMBERS & ~FLOAT16, .d_out_scale = 1e3f},
      {.name = "192/128 dOut of 1e2", .sq = 129, .right = 0, .numbers = FLOAT16, .d_out_scale = 1e2f},
      // float32 has a larger range than halves
      {.name = "192/128 q of 1e30, k of 1e-30", .sq = 129, .right = 0, .numbers = FLOAT32 | AS_TF32, .q_scale = 1e30f,
       .k_scale = 1e-30f},
      {.name = "192/128 v of 1e30, dOut of 1e-30", .sq = 129, .right = 0, .numbers = FLOAT32 | AS_TF32,
       .v_scale = 1e30f, .d_out_scale = 1e-30f},
      {.name = "192/128 v of 1e-30, dOut of 1e30", .sq = 129, .right = 0, .numbers = FLOAT32 | AS_TF32,
       .v_scale = 1e-30f, .d_out_scale = 1e30f},
      {.name = "192/128 q and v of 2e4, k of 5e-5", .sq = 129, .right = 0, .numbers = FLOAT32 | AS_TF32,
       .q_scale = 2e4f, .k_scale = 5e-5f, .v_scale = 2e4f},
      {.name = "192/128 one head 2^20 times greater", .hq = 3, .sq = 129, .dn = 192, .dr = 0, .right = 0,
       .numbers = FLOAT32 | AS_TF32, .first_head_scale = 0x1p20f},
      // sums that only grow: what is cut off from each step adds up
      {.name = "192/128 values about 2", .sq = 40, .skv = 4096, .numbers = FLOAT32 | AS_TF32, .v_mean = 2},
      {.name = "192/128 dOut about 2", .sq = 4096, .skv = 40, .numbers = FLOAT32 | AS_TF32, .d_out_mean = 2},
      {.name = "192/128 dLse", .sq = 129, .right = 0, .has_d_lse = true},

      // decode over the compressed cache
      {.name = "decode 576/512 1 head", .batch = 2, .hq = 1, .sq = 1, .skv = 333, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0},
      {.name = "decode 576/512 16 heads", .batch = 2, .hq = 16, .sq = 1, .skv = 1500, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0},
      {.name = "decode 576/512 128 heads", .hq = 128, .sq = 1, .skv = 700, .dn = 512, .dv = 512, .is_decode = true,
       .right = 0},
      {.name = "decode 576/512 128 heads, ragged", .batch = 4, .hq = 128, .sq = 1, .skv = 300, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .kv_lengths = {300, 1, 64, 131}},
      {.name = "decode 576/512 2 rows", .batch = 2, .hq = 16, .sq = 2, .skv = 200, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .kv_lengths = {200, 1}},
      {.name = "decode 576/512 5 rows, 3 heads", .hq = 3, .sq = 5, .skv = 130, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .layout = bhsd},
      {.name = "decode 576/512 16 rows", .hq = 16, .sq = 16, .skv = 260, .dn = 512, .dv = 512, .is_decode = true,
       .right = 0, .has_d_lse = true},
      {.name = "decode 576/512 16 rows, lengths 0", .batch = 4, .hq = 16, .sq = 16, .skv = 100, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .kv_lengths = {0, 100, 5, 16}, .layout = sbhd},
      {.name = "decode 576/512 window", .hq = 16, .sq = 3, .skv = 400, .dn = 512, .dv = 512, .is_decode = true,
       .left = 99, .right = 0},
      {.name = "decode 576/512 all keys", .hq = 16, .sq = 3, .skv = 90, .dn = 512, .dv = 512, .is_decode = true},
      {.name = "decode 576/512 no keys", .batch = 2, .hq = 16, .sq = 2, .skv = 0, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0},
      {.name = "decode 576/512 60000 keys", .hq = 4, .sq = 1, .skv = 60000, .dn = 512, .dv = 512, .is_decode = true,
       .right = 0, .numbers = TENSORS},
      {.name = "decode 576/512 largest score in the last tile", .hq = 16, .sq = 1, .skv = 2000, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .inputs = Inputs::rising},
      {.name = "decode 576/512 sink of +60", .hq = 16, .sq = 1, .skv = 1000, .dn = 512, .dv = 512, .is_decode = true,
       .right = 0, .inputs = Inputs::sink},
      {.name = "decode 576/512 128 heads, 2 rows, window", .batch = 2, .hq = 128, .sq = 2, .skv = 900, .dn = 512,
       .dv = 512, .is_decode = true, .left = 599, .right = 0, .kv_lengths = {900, 777}},
      {.name = "decode 576/512 96 heads", .batch = 2, .hq = 96, .sq = 2, .skv = 300, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .kv_lengths = {300, 65}, .layout = bhsd},
      {.name = "decode 576/512 64 heads, largest score in the last tile", .hq = 64, .sq = 1, .skv = 20000, .dn = 512,
       .dv = 512, .is_decode = true, .right = 0, .numbers = TENSORS, .inputs = Inputs::rising},
      {.name = "decode 576/512 64 heads, sink of +60", .hq = 64, .sq = 1, .skv = 20000, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .numbers = TENSORS, .inputs = Inputs::sink},
      {.name = "decode 576/512 64 heads, 60 batches", .batch = 60, .hq = 64, .sq = 1, .skv = 260, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .numbers = TENSORS},
      {.name = "decode 80/64 small latent", .batch = 2, .hq = 3, .sq = 2, .skv = 133, .dn = 64, .dr = 16, .dv = 64,
       .is_decode = true, .right = 0, .kv_lengths = {133, 50}, .pad = 8},
      {.name = "decode 10/7 odd columns", .batch = 2, .hq = 5, .sq = 3, .skv = 77, .dn = 7, .dr = 3, .dv = 7,
       .is_decode = true, .right = 0},

      // the shapes of design/performance.md
      {.name = "time B2 H8 S512", .batch = 2, .hq = 8, .sq = 512, .right = 0, .is_timed = true},
      {.name = "time B1 H16 S1024", .hq = 16, .sq = 1024, .right = 0, .is_timed = true},
      {.name = "time B1 H16 S2048", .hq = 16, .sq = 2048, .right = 0, .is_timed = true},
      {.name = "time B1 H16 S4096", .hq = 16, .sq = 4096, .right = 0, .is_timed = true},
      {.name = "time B1 H128 S4096", .hq = 128, .sq = 4096, .right = 0, .numbers = sixteen_bits, .is_timed = true},
      {.name = "time decode B1 H16 S2048", .hq = 16, .sq = 1, .skv = 2048, .dn = 512, .dv = 512, .is_decode = true,
       .right = 0, .is_timed = true},
      {.name = "time decode B32 H16 S4096", .batch = 32, .hq = 16, .sq = 1, .skv = 4096, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .is_timed = true},
      {.name = "time decode B1 H128 S4096", .hq = 128, .sq = 1, .skv = 4096, .dn = 512, .dv = 512, .is_decode = true,
       .right = 0, .is_timed = true},
      {.name = "time decode B8 H128 S4096", .batch = 8, .hq = 128, .sq = 1, .skv = 4096, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .is_timed = true},
      {.name = "time decode B1 H128 S32768", .hq = 128, .sq = 1, .skv = 32768, .dn = 512, .dv = 512,
       .is_decode = true, .right = 0, .is_timed = true},
  };
  return cases;
}
