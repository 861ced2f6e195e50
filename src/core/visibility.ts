import type { MlaProblem } from './problem.js';

/** `length` as the kernels read it: what lies outside [0, size] is clamped. */
export function clampLength(length: number, size: number): number {
  return Math.min(Math.max(length, 0), size);
}

/** How far a row sees to the left and right of its diagonal, and where the diagonal of row 0 is. */
function band(
  { causal, window: [left, right] }: MlaProblem,
  qLength: number,
  kvLength: number,
): { left: number; right: number; first: number } {
  const seesRight = right < 0 ? Infinity : right;
  return {
    left: left < 0 ? Infinity : left,
    right: causal === 'none' ? seesRight : Math.min(seesRight, 0),
    first: causal === 'top-left' ? 0 : kvLength - qLength,
  };
}

/**
 * The keys [lo, hi) that row i sees, given the number of rows and keys that exist; lo = hi if it sees none.
 *
 * The diagonal of row i is i, or i + kvLength - qLength unless the causal mask is aligned at the top left. A window
 * counts from the diagonal, and a causal mask is a window that ends there.
 */
export function visibleKeys(
  problem: MlaProblem,
  i: number,
  qLength: number,
  kvLength: number,
): [lo: number, hi: number] {
  if (i >= qLength) return [0, 0];
  const { left, right, first } = band(problem, qLength, kvLength);
  const lo = Math.max(0, i + first - left);
  const hi = Math.min(kvLength, i + first + right + 1);
  return hi > lo ? [lo, hi] : [0, 0];
}

/** The rows [lo, hi) that see key j: the same band, read by columns. */
export function seeingRows(
  problem: MlaProblem,
  j: number,
  qLength: number,
  kvLength: number,
): [lo: number, hi: number] {
  if (j >= kvLength) return [0, 0];
  const { left, right, first } = band(problem, qLength, kvLength);
  const lo = Math.max(0, j - first - right);
  const hi = Math.min(qLength, j - first + left + 1);
  return hi > lo ? [lo, hi] : [0, 0];
}
