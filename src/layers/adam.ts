import {
  add,
  concat,
  div,
  minimum,
  mul,
  reshape,
  split,
  sqrt,
  sub,
  sum,
  tensor1d,
  unstack,
} from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Tensor1D } from '@tensorflow/tfjs-core';
import { MLAAdam, hasRowKernel, runAdamKernel } from '../core/rowKernels.js';
import type { AdamRates, AdamState } from '../core/rowKernels.js';

/**
 * One update of Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), with gradients in the order of the values, scaled down to a
 * global norm of `rates.clipNorm`. Returns the new state, and the gradients' norm before that.
 */
export function adamUpdate(
  state: AdamState,
  gradients: readonly Tensor[],
  rates: AdamRates,
): AdamState & { norm: Scalar } {
  return hasRowKernel(MLAAdam)
    ? runAdamKernel(state, gradients, rates)
    : composedUpdate(state, gradients, rates);
}

/** On all numbers at once: a dozen ops for each tensor would take longer to launch than to compute. */
function composedUpdate(
  state: AdamState,
  gradients: readonly Tensor[],
  { beta1, beta2, smallest, rate, clipNorm }: AdamRates,
): AdamState & { norm: Scalar } {
  // made as one tensor: a number in a tfjs op is a tensor of its own, and a GPU may have to wait for each
  const numbers = [beta1, 1 - beta1, beta2, 1 - beta2, smallest, rate, clipNorm, 1];
  const [keep1, add1, keep2, add2, least, step, limit, one] = unstack(tensor1d(numbers));
  const unscaled = joined(gradients);
  const norm = sqrt(sum<Scalar>(mul(unscaled, unscaled)));
  const gradient = mul(unscaled, minimum(one, div(limit, norm)));
  const firstMoment: Tensor1D = add(mul(state.firstMoment, keep1), mul(gradient, add1));
  const secondMoment: Tensor1D = add(mul(state.secondMoment, keep2), mul(mul(gradient, gradient), add2));
  const change = div(mul(firstMoment, step), add(sqrt(secondMoment), least));
  const values = apart(sub<Tensor1D>(joined(state.values), change), state.values);
  return { values, firstMoment, secondMoment, norm };
}

/** The numbers of all tensors, one after another. */
export function joined(tensors: readonly Tensor[]): Tensor1D {
  return concat(tensors.map((each) => reshape(each, [each.size])));
}

/** The same in tensors of their own again, shaped like others. */
export function apart(all: Tensor1D, like: readonly Tensor[]): Tensor[] {
  const parts = split(
    all,
    like.map(({ size }) => size),
  );
  return parts.map((part, i) => reshape(part, like[i].shape));
}
