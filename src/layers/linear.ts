import { add, matMul, reshape } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { asMatrix } from './rowwise.js';

/**
 * x [..., in] times a weight [out, in], transposed, plus an optional bias [out]; the result has the shape given.
 *
 * Weights stay in Hugging Face's orientation: both operands are read along their rows, and no weight is ever copied.
 */
export function linear(x: Tensor, weight: Tensor, shape: number[], bias?: Tensor): Tensor {
  const product = matMul(asMatrix(x), weight as Tensor2D, false, true);
  return reshape(bias ? add(product, bias as Tensor1D) : product, shape);
}
