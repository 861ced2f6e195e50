import { add, div, minimum, mul, sqrt, sub, tensor1d, unstack } from '@tensorflow/tfjs-core';
import type { Scalar, Tensor } from '@tensorflow/tfjs-core';
import { MLAAdam, hasRowKernel, runRowKernel } from '../core/rowKernels.js';
import type { AdamRates } from '../core/rowKernels.js';

/** What Adam changes: numbers, and the running means of their gradients and of the squares of these. */
export interface AdamState {
  value: Tensor;
  firstMoment: Tensor;
  secondMoment: Tensor;
}

/**
 * One update of Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), for any number of tensors: what it returns takes each with
 * its gradient, all of which are scaled down to the global norm `rates.clipNorm` where `norm`, which is theirs, is greater.
 */
export function adamUpdate(
  rates: AdamRates,
  norm: Scalar,
): (state: AdamState, gradient: Tensor) => AdamState {
  return hasRowKernel(MLAAdam) ? fusedUpdate(rates, norm) : composedUpdate(rates, norm);
}

function fusedUpdate(rates: AdamRates, norm: Scalar): ReturnType<typeof adamUpdate> {
  return (state, gradient) => {
    const [value, firstMoment, secondMoment] = runRowKernel(MLAAdam, { ...state, gradient, norm }, rates);
    return { value, firstMoment, secondMoment };
  };
}

function composedUpdate(
  { beta1, beta2, smallest, rate, clipNorm }: AdamRates,
  norm: Scalar,
): ReturnType<typeof adamUpdate> {
  // made as one tensor: a number in a tfjs op is a tensor of its own, and a GPU may have to wait for each
  const numbers = [beta1, 1 - beta1, beta2, 1 - beta2, smallest, rate, clipNorm, 1];
  const [keep1, add1, keep2, add2, least, step, limit, one] = unstack(tensor1d(numbers));
  const factor = minimum(one, div(limit, norm));
  return (state, unscaled) => {
    const gradient = mul(unscaled, factor);
    const firstMoment = add(mul(state.firstMoment, keep1), mul(gradient, add1));
    const secondMoment = add(mul(state.secondMoment, keep2), mul(mul(gradient, gradient), add2));
    const change = div(mul(firstMoment, step), add(sqrt(secondMoment), least));
    return { value: sub(state.value, change), firstMoment, secondMoment };
  };
}
