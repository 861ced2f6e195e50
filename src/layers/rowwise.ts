import {
  add,
  concat,
  eye,
  getBackend,
  matMul,
  mul,
  ones,
  reshape,
  slice,
  split,
  sum,
  util,
} from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { withGradient } from '../core/tensors.js';

/*
 * Arithmetic between a matrix [n, d] and a column [n, 1], and on a matrix's columns.
 *
 * tfjs's cpu backend walks broadcasts, sums over rows and slices of columns element by element through index arrays:
 * 10 to 20 times slower than a thin matrix product. There, a product with ones and zeros stands in (exact: products
 * accumulate in float64). Elsewhere the plain op is best.
 */

/** The column [n, 1] in a form that multiplies a matrix [n, d] quickly: as it is, or repeated d times on cpu. */
export function asColumns(column: Tensor2D, d: number): Tensor2D {
  return getBackend() === 'cpu' ? matMul(column, ones([1, d])) : column;
}

/** matrix [n, d] times column [n, 1]. */
export function scaleRows(matrix: Tensor2D, column: Tensor2D): Tensor2D {
  return mul(matrix, asColumns(column, matrix.shape[1]));
}

/** Sum over the rows of [n, d]: [d]. */
export function sumRows(matrix: Tensor2D): Tensor1D {
  const [n, d] = matrix.shape;
  if (getBackend() !== 'cpu') return sum(matrix, 0);
  return reshape(matMul(ones([1, n]), matrix), [d]);
}

/** a + b of one shape. The gradient of tfjs's own op reshapes what it hands on, twice. */
export function plus(a: Tensor2D, b: Tensor2D): Tensor2D {
  return withGradient(
    [a, b],
    (x, y) => ({ value: add(x, y), saved: [] }),
    // two tensors of one memory: tfjs disposes of a gradient once it has added another to it
    (dSum) => [dSum.clone(), dSum.clone()],
  ) as Tensor2D;
}

/** [..., left] and [..., right] side by side, with a gradient that takes them apart again. */
export function joinColumns(left: Tensor, right: Tensor): Tensor {
  return withGradient(
    [left, right],
    (a, b) => ({ value: concat([a, b], a.rank - 1), saved: [] }),
    (dJoined) => splitColumns(dJoined, left.shape, right.shape),
  );
}

function splitColumns(joined: Tensor, leftShape: number[], rightShape: number[]): Tensor[] {
  const sizes = [leftShape[leftShape.length - 1], rightShape[rightShape.length - 1]];
  if (getBackend() !== 'cpu') return split(joined, sizes, joined.rank - 1);
  // tfjs's cpu backend slices columns by index arrays too
  const rows = asMatrix(joined);
  const unit = eye(sizes[0] + sizes[1]);
  const [first, second] = [slice(unit, 0, sizes[0]), slice(unit, sizes[0], sizes[1])];
  return [
    reshape(matMul(rows, first, false, true), leftShape),
    reshape(matMul(rows, second, false, true), rightShape),
  ];
}

/** Any tensor [..., d] as a matrix [n, d]. */
export function asMatrix(x: Tensor): Tensor2D {
  const d = x.shape[x.rank - 1];
  // -1 cannot be inferred when d is 0
  return inShape(x, [x.size / Math.max(1, d), d]) as Tensor2D;
}

/** A reshape where there is something to do: it is an op like others, and has a gradient. */
export function inShape(x: Tensor, shape: number[]): Tensor {
  return util.arraysEqual(x.shape, shape) ? x : reshape(x, shape);
}
