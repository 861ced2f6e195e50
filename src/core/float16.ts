/** IEEE 754 half precision, by its sixteen bits. */

const oneNumber = new Float32Array(1);
const itsBits = new Uint32Array(oneNumber.buffer);

export function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const magnitude = bits & 0x7fff;
  if (magnitude > 0x7c00) return NaN;
  if (magnitude === 0x7c00) return sign * Infinity;
  if (magnitude < 0x400) return sign * magnitude * 2 ** -24;
  // float32 has thirteen bits more of the fraction, and its exponent counts from another zero
  itsBits[0] = (magnitude << 13) + 0x38000000;
  return sign * oneNumber[0];
}

/**
 * The float16 next to a float32, ties to even. What is finite stays finite: beyond ±65504 it becomes ±65504. NaN stays
 * NaN. kernels/webgpu/mlaCacheAppend.ts has the same in WGSL.
 */
export function float16Bits(value: number): number {
  oneNumber[0] = value;
  const [bits] = itsBits;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude === 0x7f800000) return sign | 0x7c00;
  if (magnitude >= 0x477fe000) return sign | 0x7bff;
  // from 2^-14 on
  if (magnitude >= 0x38800000) return sign | shiftRounded(magnitude - 0x38000000, 13);
  // below: whole multiples of 2^-24, and less than half of that is 0
  const shift = 126 - (magnitude >>> 23);
  return shift > 24 ? sign : sign | shiftRounded((magnitude & 0x7fffff) | 0x800000, shift);
}

/** x / 2^shift, ties to even. */
function shiftRounded(x: number, shift: number): number {
  return (x + (1 << (shift - 1)) - 1 + ((x >>> shift) & 1)) >>> shift;
}

/** Writes numbers into words of two, from number `at` on, which is an even one. */
export function packFloat16(words: Int32Array, at: number, numbers: Float32Array): void {
  const halves = halvesOf(words);
  for (let i = 0; i < numbers.length; i++) halves[at + i] = float16Bits(numbers[i]);
}

/** The numbers in words of two. */
export function unpackFloat16(words: Int32Array): Float32Array {
  const halves = halvesOf(words);
  const numbers = new Float32Array(halves.length);
  for (let i = 0; i < numbers.length; i++) numbers[i] = float16Value(halves[i]);
  return numbers;
}

/** The lower half of a word comes first: every engine of today runs on little-endian machines. */
function halvesOf({ buffer, byteOffset, length }: Int32Array): Uint16Array {
  return new Uint16Array(buffer, byteOffset, 2 * length);
}
