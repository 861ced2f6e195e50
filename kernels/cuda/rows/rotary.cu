/* Rotary embedding: a block takes a token, a thread a column of `joined` at a time. */
#include "rows.cuh"

/* Where column j of a head's rope has its partner, and which way it turns. */
__device__ inline int partner_of(const MlaRotary &p, int j) {
  if (p.is_interleaved) return j ^ 1;
  return j < p.dr / 2 ? j + p.dr / 2 : j - p.dr / 2;
}

/* Column j of a head's rope turned by the token's angles, or back (direction −1). */
__device__ inline float turned(const MlaRotary &p, const float *rope, int j, float direction) {
  const int64_t entry = blockIdx.x % p.positions * p.dr + j;
  const int partner = partner_of(p, j);
  const float sin = partner > j ? -p.sin[entry] : p.sin[entry];
  return rope[j] * p.cos[entry] + direction * rope[partner] * sin;
}

extern "C" __global__ void rotary_forward(const __grid_constant__ MlaRotary p) {
  const int d = p.dn + p.dr;
  for (int c = threadIdx.x; c < p.heads * d; c += blockDim.x) {
    const int64_t head = int64_t(blockIdx.x) * p.heads + c / d;
    const int j = c % d;
    p.joined[head * d + j] = j < p.dn ? p.nope[head * p.dn + j] : turned(p, p.rope + head * p.dr, j - p.dn, 1);
  }
}

extern "C" __global__ void rotary_backward(const __grid_constant__ MlaRotary p) {
  const int d = p.dn + p.dr;
  for (int c = threadIdx.x; c < p.heads * d; c += blockDim.x) {
    const int64_t head = int64_t(blockIdx.x) * p.heads + c / d;
    const int j = c % d;
    if (j < p.dn) p.nope[head * p.dn + j] = p.joined[head * d + j];
    else p.rope[head * p.dr + j - p.dn] = turned(p, p.joined + head * d + p.dn, j - p.dn, -1);
  }
}
