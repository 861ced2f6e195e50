import { fail } from './errors.js';

export const precisions = ['float32', 'float16', 'bfloat16', 'tf32', 'auto'] as const;

/**
 * Width of the operands of matrix products. Softmax and all sums are float32 always.
 * 'auto' is the fastest that keeps the float16 error bounds.
 */
export type Precision = (typeof precisions)[number];

let defaultPrecision: Precision = 'float32';

/** Sets the precision of every later call that names none. Throws on an unknown name. */
export function setDefaultPrecision(precision: Precision): void {
  checkPrecision('setDefaultPrecision', precision);
  defaultPrecision = precision;
}

export function getDefaultPrecision(): Precision {
  return defaultPrecision;
}

export function checkPrecision(functionName: string, precision: Precision): void {
  if (!precisions.includes(precision)) {
    fail(functionName, `precision must be one of ${precisions.join(', ')}, got ${String(precision)}`);
  }
}
