import { Tensor, backend, customGrad, keep, scalar, tensor, tensor1d, tidy } from '@tensorflow/tfjs-core';
import type { GradSaveFunc, KernelBackend, Scalar, Tensor1D, TensorLike } from '@tensorflow/tfjs-core';
import { isNumbers } from './problem.js';

/** A tensor as it is, anything else as tfjs reads it; the dtype is checked by the problem, never cast. */
export function toTensor<T extends Tensor>(value: T | TensorLike): T {
  return value instanceof Tensor ? value : (tensor(value) as T);
}

/** An optional input that is absent: the tape and TensorFlow want every input of a kernel to be there. */
export function absent(dtype: 'float32' | 'int32' = 'float32'): Tensor1D {
  return tensor1d([], dtype);
}

/** Lengths as the kernels want them: int32 [b], or absent. */
export function lengthsTensor(lengths: readonly number[] | Tensor1D | undefined): Tensor1D {
  if (lengths === undefined) return absent('int32');
  return isNumbers(lengths) ? tensor1d([...lengths], 'int32') : lengths;
}

const constants = new WeakMap<KernelBackend, Map<number, Scalar>>();

/**
 * A number as a tensor that stays for as long as its backend. tfjs makes a tensor of every number in an op anew, and on its
 * way to a GPU TensorFlow waits until all work before it is done.
 */
export function constant(value: number): Scalar {
  const ofBackend = constants.get(backend()) ?? new Map<number, Scalar>();
  constants.set(backend(), ofBackend);
  const tensorOf = ofBackend.get(value) ?? keep(scalar(value));
  ofBackend.set(value, tensorOf);
  return tensorOf;
}

/**
 * A composed op with a gradient of its own, since tfjs-core alone registers none.
 *
 * `forward` gets the inputs and returns the value and what the gradient needs; `backward` gets dValue and that, and
 * returns one gradient per input.
 */
export function withGradient(
  inputs: Tensor[],
  forward: (...inputs: Tensor[]) => { value: Tensor; saved: Tensor[] },
  backward: (dValue: Tensor, saved: Tensor[]) => Tensor[],
): Tensor {
  const run = customGrad((...args) => {
    const save = args.pop() as GradSaveFunc;
    const { value, saved } = forward(...(args as Tensor[]));
    save(saved);
    // tfjs itself frees nothing of a backward pass before its end
    return { value, gradFunc: (dValue: Tensor, kept: Tensor[]) => tidy(() => backward(dValue, kept)) };
  });
  return run(...inputs);
}
