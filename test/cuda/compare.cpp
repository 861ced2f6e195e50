#include "compare.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

Tolerance tolerance_of(const Numbers &numbers, double largest_score) {
  constexpr Bounds float32 = {1e-5, 4e-5};
  double u = numbers.roundoff;
  if (numbers.type == MLA_FLOAT32 && numbers.precision == MLA_AS_FLOAT32) {
    double more = std::max(1.0, largest_score / 8);
    return {{1e-5 * more, 4e-5 * more}, float32, {2e-5 * more, 8e-5 * more}, 1e-5};
  }
  bool is_rounded = numbers.type == MLA_FLOAT32;
  double scores = is_rounded ? largest_score : 0;
  double out = (4 + scores) * u, gradient = (8 + 2 * scores) * u;
  return {{out, 4 * out}, float32, {gradient, 4 * gradient}, is_rounded ? (1 + scores) * u : 1e-5};
}

namespace {

std::string text_of(const char *format, auto... values) {
  char text[400];
  std::snprintf(text, sizeof text, format, values...);
  return text;
}

// Calls work(got, expected, element of `got`, b, position) on all pairs.
template <class Work> void for_pairs(const Values &got, const Expected &expected, Work work) {
  for (int b = 0; b < expected.batch; b++)
    for (int h = 0; h < expected.heads; h++)
      for (size_t place = 0; place < expected.positions.size(); place++) {
        size_t first = got.index(b, h, expected.positions[place]);
        const double *from = expected.at(b, h, place);
        for (int d = 0; d < expected.depth; d++)
          work(got.data[first + d], from[d], first + d, b, expected.positions[place]);
      }
}

std::string place_of(const Values &got, size_t element, double value, double expected) {
  return text_of("worst at %s: got %.9g, expected %.9g", got.position_name(element).c_str(), value, expected);
}

} // namespace

Comparison compare(const Values &got, const Expected &expected, Bounds bounds, MlaType type, const IsBlind &is_blind) {
  double square = 0, off_square = 0, largest = 0, worst = -1;
  size_t count = 0, worst_element = 0;
  double worst_got = 0, worst_expected = 0;
  for_pairs(got, expected, [&](double value, double right, size_t element, int b, int position) {
    double off = std::fabs(value - right);
    if (std::isnan(off) || (right == 0 && value != 0 && is_blind(b, position))) off = INFINITY;
    square += right * right;
    off_square += off * off;
    largest = std::max(largest, std::fabs(right));
    count++;
    if (off <= worst) return;
    worst = off, worst_element = element, worst_got = value, worst_expected = right;
  });
  if (count == 0) return {expected.name + " empty"};
  // halves below 2^-14 lie 2^-24 apart
  double step = type == MLA_FLOAT16 ? 0x1p-24 : 0;
  double norm = std::sqrt(off_square), norm_bound = bounds.norm * std::sqrt(square) + step * std::sqrt(double(count));
  double worst_bound = bounds.worst * largest + step;
  double scale = square > 0 ? std::sqrt(square) : 1, most = largest > 0 ? largest : 1;
  Comparison result;
  auto fraction = [](double off, double bound) { return off > 0 ? off / bound : 0; };
  result.of_bound = std::max(fraction(norm, norm_bound), fraction(worst, worst_bound));
  result.figures = text_of("%s %.1e (%.1e) max %.1e (%.1e)", expected.name.c_str(), norm / scale, norm_bound / scale,
                           worst / most, worst_bound / most);
  if (!(norm <= norm_bound) || !(worst <= worst_bound))
    result.failure = result.figures + "; " + place_of(got, worst_element, worst_got, worst_expected);
  return result;
}

Comparison compare_lse(const Values &got, const Expected &expected, double bound) {
  double worst = -1, worst_got = 0, worst_expected = 0;
  size_t worst_element = 0;
  for_pairs(got, expected, [&](double value, double right, size_t element, int, int) {
    double off = value == right ? 0 : std::fabs(value - right) / std::max(1.0, std::fabs(right));
    if (std::isnan(off) || std::isinf(right)) off = value == right ? 0 : INFINITY;
    if (off <= worst) return;
    worst = off, worst_element = element, worst_got = value, worst_expected = right;
  });
  if (worst < 0) return {expected.name + " empty"};
  Comparison result = {text_of("%s %.1e (%.1e)", expected.name.c_str(), worst, bound), "", worst / bound};
  if (!(worst <= bound)) result.failure = result.figures + "; " + place_of(got, worst_element, worst_got, worst_expected);
  return result;
}
