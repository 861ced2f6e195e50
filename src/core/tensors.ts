import { Tensor, backend, customGrad, keep, scalar, tensor, tensor1d, tidy } from '@tensorflow/tfjs-core';
import type {
  GradSaveFunc,
  KernelBackend,
  Scalar,
  Tensor1D,
  TensorInfo,
  TensorLike,
} from '@tensorflow/tfjs-core';
import { isNumbers } from './problem.js';

/** A tensor as it is, anything else as tfjs reads it; the dtype is checked by the problem, never cast. */
export function toTensor<T extends Tensor>(value: T | TensorLike): T {
  return value instanceof Tensor ? value : (tensor(value) as T);
}

/**
 * An optional input that is absent: the tape and TensorFlow want every input of a kernel to be there. It stays: who disposes
 * of it has it made anew.
 */
export function absent(dtype: 'float32' | 'int32' = 'float32'): Tensor1D {
  return kept(dtype, () => tensor1d([], dtype));
}

export function isAbsent({ shape }: TensorInfo): boolean {
  return shape.length === 1 && shape[0] === 0;
}

/** Lengths as the kernels want them: int32 [b], or absent. */
export function lengthsTensor(lengths: readonly number[] | Tensor1D | undefined): Tensor1D {
  if (lengths === undefined) return absent('int32');
  return isNumbers(lengths) ? tensor1d([...lengths], 'int32') : lengths;
}

/** A number as a tensor that stays, where tfjs makes one of every number in an op anew. */
export function constant(value: number): Scalar {
  return kept(value, () => scalar(value));
}

const keptTensors = new WeakMap<KernelBackend, Map<unknown, Tensor>>();

/**
 * What every call would make anew, for as long as its backend. A new tensor on its way to a GPU takes longer than an op, and
 * TensorFlow waits until all work before it is done.
 */
function kept<T extends Tensor>(key: unknown, make: () => T): T {
  const current = backend();
  const ofBackend = keptTensors.get(current) ?? new Map<unknown, Tensor>();
  keptTensors.set(current, ofBackend);
  const known = ofBackend.get(key);
  if (known && !known.isDisposed) return known as T;
  const made = keep(make());
  ofBackend.set(key, made);
  return made;
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
