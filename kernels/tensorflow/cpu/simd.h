/* Vectors of the instruction set that this file is compiled for, in GCC's terms: cpu/kernels.c is compiled for three. */
#include <stdint.h>
#include <string.h>

/* LANES floats in a vector; a tile of sums that fits the registers has QUAD rows and VECTORS vectors. */
#if defined(__AVX512F__)
enum { LANES = 16, QUAD = 8, VECTORS = 2 };
#elif defined(__AVX2__)
enum { LANES = 8, QUAD = 6, VECTORS = 2 };
#else
enum { LANES = 4, QUAD = 4, VECTORS = 2 };
#endif

/* Columns of a panel of the right operand. */
enum { PANEL = LANES * VECTORS };

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));

static inline Floats load(const float *x) {
  Floats v;
  memcpy(&v, x, sizeof v);
  return v;
}

static inline void store(float *x, Floats v) { memcpy(x, &v, sizeof v); }

static inline Floats splat(float x) { return x - (Floats){0}; }

static inline Floats select(Ints condition, Floats yes, Floats no) {
  return (Floats)((condition & (Ints)yes) | (~condition & (Ints)no));
}

static inline float sum_of_lanes(Floats x) {
  float sum = 0;
  for (int i = 0; i < LANES; i++) sum += x[i];
  return sum;
}

static inline float max_of_lanes(Floats x) {
  float max = x[0];
  for (int i = 1; i < LANES; i++) max = x[i] > max ? x[i] : max;
  return max;
}

#define INFINITY __builtin_inff()

/* ln x for a positive normal x, in double: x = 2^n · m with m around 1, ln m = 2·artanh((m − 1)/(m + 1)). (The library
   that has one of its own would be a dependency.) */
static inline double natural_log(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  int n = (int)(bits >> 23) - 127;
  bits = (bits & 0x7fffff) | 0x3f800000;
  float m;
  memcpy(&m, &bits, 4);
  if (m > 1.41421356f) m /= 2, n++;
  double s = (m - 1.0) / (m + 1.0), square = s * s, sum = 0;
  for (int k = 15; k > 0; k -= 2) sum = sum * square + 1.0 / k;
  return n * 0.69314718055994530942 + 2 * s * sum;
}

/* e^x for x up to 88, 0 below -87, NaN for NaN: x = n·ln 2 + r with a whole n, and a polynomial of degree 6 for e^r
   (Cephes, expf; 2 ulp). */
static inline Floats exp_floats(Floats x) {
  const Floats rounder = splat(12582912); /* adding it rounds to whole numbers, which then stand in the lowest bits */
  Floats bounded = select(x > 88, splat(88), x);
  Floats shifted = bounded * 1.44269504088896341f + rounder;
  Floats n = shifted - rounder;
  Floats r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  Floats y = splat(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * (r * r) + (r + 1);
  Ints power = ((Ints)shifted + 127) << 23;
  return select(x < -87, splat(0), y * (Floats)power);
}
