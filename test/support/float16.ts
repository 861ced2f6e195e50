/** Rounding to float16 by its definition, without a look at bits: it shares nothing with src/core/float16.ts. */

/** The nearest float16, ties to even; what is finite stays within ±65504. */
export function nearestFloat16(x: number): number {
  if (!Number.isFinite(x)) return x;
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(x))));
  const unit = 2 ** (exponent - 10);
  return Math.sign(x) * Math.min(roundTiesToEven(Math.abs(x) / unit) * unit, 65504);
}

function roundTiesToEven(x: number): number {
  const below = Math.floor(x);
  const rest = x - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}
