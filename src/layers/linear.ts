import { add, getBackend, matMul, tidy, transpose } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { MLAMatMul, hasRowKernel, runRowKernel } from '../core/rowKernels.js';
import { withGradient } from '../core/tensors.js';
import { asMatrix, inShape } from './rowwise.js';

/**
 * x [..., in] times a weight [out, in], transposed, plus an optional bias [out]; the result has the shape given.
 *
 * Weights stay in Hugging Face's orientation: both operands are read along their rows.
 */
export function linear(x: Tensor, weight: Tensor, shape: number[], bias?: Tensor): Tensor {
  const rows = withGradient(
    [asMatrix(x), weight],
    (a, w) => ({ value: product(a, w, 'b'), saved: [a, w] }),
    (dy, [a, w]) => [product(dy, w), product(dy, a, 'a')],
  );
  return inShape(bias ? add(rows, bias as Tensor1D) : rows, shape);
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
