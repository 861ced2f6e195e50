/** Arithmetic on four floats at once. */

export function splat(x: f32): v128 {
  return f32x4.splat(x);
}

/** sum + x · y; with relaxed SIMD in one rounding where the machine has such an instruction. */
export function addProduct(sum: v128, x: v128, y: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(x, y, sum);
  return f32x4.add(sum, f32x4.mul(x, y));
}

/** float32 from float16, each in the lower half of its lane: the exponent moves over and counts from another zero. */
export function widen(halves: v128): v128 {
  const magnitude = v128.and(halves, i32x4.splat(0x7fff));
  const twoTo112 = splat(reinterpret<f32>(0x77800000));
  const value = f32x4.mul(i32x4.shl(magnitude, 13), twoTo112);
  // NaN and the infinities have the greatest exponent in both
  const isLast = v128.and(i32x4.gt_s(magnitude, i32x4.splat(0x7bff)), i32x4.splat(0x7f800000));
  const sign = i32x4.shl(v128.and(halves, i32x4.splat(0x8000)), 16);
  return v128.or(v128.or(value, isLast), sign);
}

export function sumOfLanes(x: v128): f32 {
  const pairs = f32x4.add(x, v128.shuffle<f32>(x, x, 2, 3, 0, 1));
  return f32x4.extract_lane(pairs, 0) + f32x4.extract_lane(pairs, 1);
}

export function maxOfLanes(x: v128): f32 {
  const pairs = f32x4.pmax(x, v128.shuffle<f32>(x, x, 2, 3, 0, 1));
  return max(f32x4.extract_lane(pairs, 0), f32x4.extract_lane(pairs, 1));
}

/**
 * e^x for x up to 88, 0 below -87, NaN for NaN: x = n·ln 2 + r with a whole n, and a polynomial of degree 6 for e^r
 * (Cephes, expf; 2 ulp).
 */
export function exp(x: v128): v128 {
  // adding it rounds to whole numbers, which then stand in the lowest bits
  const rounder = splat(12582912);
  const bounded = f32x4.pmin(x, splat(88));
  const shifted = addProduct(rounder, bounded, splat(1.44269504088896341));
  const n = f32x4.sub(shifted, rounder);
  let r = addProduct(bounded, n, splat(-0.693359375));
  r = addProduct(r, n, splat(2.1219444e-4));
  let y = addProduct(splat(1.3981999507e-3), r, splat(1.98756915e-4));
  y = addProduct(splat(8.3334519073e-3), r, y);
  y = addProduct(splat(4.1665795894e-2), r, y);
  y = addProduct(splat(1.6666665459e-1), r, y);
  y = addProduct(splat(5.0000001201e-1), r, y);
  y = addProduct(f32x4.add(r, splat(1)), f32x4.mul(r, r), y);
  const power = i32x4.shl(i32x4.add(shifted, i32x4.splat(127)), 23);
  return v128.andnot(f32x4.mul(y, power), f32x4.lt(x, splat(-87)));
}
