import type { MlaProblem } from './problem.js';

/** `length` as the kernels read it: what lies outside [0, size] is clamped. */
export function clampLength(length: number, size: number): number {
  return Math.min(Math.max(length, 0), size);
}

/** Far beyond every index, and still far from the end of a 32-bit integer. */
const unbounded = 1 << 29;

/** How many keys a row sees left and right of its diagonal, the causal mask included. */
export function reach({ causal, window: [left, right] }: MlaProblem): { left: number; right: number } {
  const seesRight = right < 0 ? unbounded : Math.min(right, unbounded);
  return {
    left: left < 0 ? unbounded : Math.min(left, unbounded),
    right: causal === 'none' ? seesRight : 0,
  };
}

/** The diagonal of row 0. */
function firstDiagonal({ causal }: MlaProblem, qLength: number, kvLength: number): number {
  return causal === 'top-left' ? 0 : kvLength - qLength;
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
  const { left, right } = reach(problem);
  const first = firstDiagonal(problem, qLength, kvLength);
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
  const { left, right } = reach(problem);
  const first = firstDiagonal(problem, qLength, kvLength);
  const lo = Math.max(0, j - first - right);
  const hi = Math.min(qLength, j - first + left + 1);
  return hi > lo ? [lo, hi] : [0, 0];
}
