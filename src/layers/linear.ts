import { add, getBackend, matMul, tidy, transpose } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { MLALinear, MLAMatMul, hasRowKernel, runLinearKernel, runRowKernel } from '../core/rowKernels.js';
import { withGradient } from '../core/tensors.js';
import { inShape } from './rowwise.js';

/** A weight [out, in] in Hugging Face's orientation, in which both operands are read along their rows. */
export interface LinearMap {
  weight: Tensor;
  /** [out] */
  bias?: Tensor;
  /** Of the result, with as many elements as [rows, out], which is the default. */
  shape?: number[];
}

/** x, as rows of `in` columns, times a weight [out, in], transposed, plus an optional bias [out]. */
export function linear(x: Tensor, map: LinearMap): Tensor {
  return linears(x, [map])[0];
}

/** Several linear maps of one input, in one kernel where the backend has it. */
export function linears(x: Tensor, maps: LinearMap[]): Tensor[] {
  const weights = maps.map(({ weight }) => weight);
  const products = hasRowKernel(MLALinear)
    ? runLinearKernel(
        x,
        weights,
        // a bias is added to rows
        maps.map(({ bias, shape }) => (bias ? undefined : shape)),
      )
    : composedProducts(x, weights);
  return maps.map(({ bias, shape }, i) => {
    const rows = bias ? add(products[i], bias as Tensor1D) : products[i];
    return shape ? inShape(rows, shape) : rows;
  });
}

function composedProducts(x: Tensor, weights: Tensor[]): Tensor[] {
  const columns = (weights[0] as Tensor2D).shape[1];
  const rows = inShape(x, [x.size / Math.max(1, columns), columns]);
  return weights.map((weight) =>
    withGradient(
      [rows, weight],
      (a, w) => ({ value: product(a, w, 'b'), saved: [a, w] }),
      (dy, [a, w]) => [product(dy, w), product(dy, a, 'a')],
    ),
  );
}

/**
 * The product of two matrices, one of them transposed if it is named. tfjs's wasm backend multiplies transposed
 * operands in a plain loop, 10 to 60 times slower than XNNPACK multiplies plain ones: there they are turned first.
 */
export function product(a: Tensor, b: Tensor, transposed?: 'a' | 'b'): Tensor2D {
  const [isA, isB] = [transposed === 'a', transposed === 'b'];
  if (hasRowKernel(MLAMatMul)) {
    return runRowKernel(MLAMatMul, { a, b }, { transposeA: isA, transposeB: isB })[0] as Tensor2D;
  }
  // few rows are not worth the turning of a whole weight
  if (getBackend() !== 'wasm' || a.shape[0] < 3) return matMul(a as Tensor2D, b as Tensor2D, isA, isB);
  return tidy(() => matMul<Tensor2D>(isA ? transpose(a) : a, isB ? transpose(b) : b));
}
