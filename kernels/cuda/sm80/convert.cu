/* float32 tensors as half or bfloat16, to the nearest: params.v, [batch, skv, hkv, dv] with any strides, to params.out.
   grid: any; a thread takes four numbers of a row at a time. */
#include "../plan.h"
#include "mma.cuh"

template <typename T>
__device__ inline void convert(const MlaParams &p) {
  const int groups = p.dv / 4;
  const int64_t count = (int64_t)p.batch * p.skv * p.hkv * groups;
  for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += (int64_t)gridDim.x * blockDim.x) {
    const int column = i % groups * 4, head = i / groups % p.hkv;
    const int64_t place = i / groups / p.hkv, position = place % p.skv, batch = place / p.skv;
    const float *from =
        static_cast<const float *>(p.v.start) + batch * p.v.batch + position * p.v.position + head * p.v.head + column;
    T *to = static_cast<T *>(p.out.start) + batch * p.out.batch + position * p.out.position + head * p.out.head + column;
    const float4 four = *reinterpret_cast<const float4 *>(from);
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack(four.x, four.y, T()), pack(four.z, four.w, T()));
  }
}

extern "C" __global__ void convert_f16(const __grid_constant__ MlaArguments a) { convert<__half>(a.params); }
extern "C" __global__ void convert_bf16(const __grid_constant__ MlaArguments a) { convert<__nv_bfloat16>(a.params); }
