import {
  Tensor,
  backend,
  customGrad,
  engine,
  keep,
  scalar,
  tensor,
  tensor1d,
  tidy,
} from '@tensorflow/tfjs-core';
import type {
  GradSaveFunc,
  KernelBackend,
  Scalar,
  Tensor1D,
  TensorInfo,
  TensorLike,
} from '@tensorflow/tfjs-core';
import { isNumbers } from './checks.js';

/** A tensor as it is, anything else as tfjs reads it; the dtype is checked by the problem, never cast. */
export function toTensor<T extends Tensor>(value: T | TensorLike): T {
  return value instanceof Tensor ? value : (tensor(value) as T);
}

/** An optional input that is absent: the tape and TensorFlow want every input of a kernel to be there. */
export function absent(dtype: 'float32' | 'int32' = 'float32'): Tensor1D {
  const kept = keptAbsents.get(backend())?.[dtype];
  return kept && !kept.isDisposed ? kept : tensor1d([], dtype);
}

const keptAbsents = new WeakMap<KernelBackend, Record<'float32' | 'int32', Tensor1D>>();

/**
 * Makes what stands for absent inputs on a backend once, not in every call. It is done at registration: later a page that counts
 * its tensors would take them for a leak.
 */
export function keepAbsents(of: KernelBackend): void {
  if (keptAbsents.has(of)) return;
  const make = (values: Float32Array | Int32Array, dtype: 'float32' | 'int32'): Tensor1D =>
    keep(engine().makeTensor(values, [0], dtype, of) as Tensor1D);
  keptAbsents.set(of, {
    float32: make(new Float32Array(0), 'float32'),
    int32: make(new Int32Array(0), 'int32'),
  });
}

export function isAbsent({ shape }: TensorInfo): boolean {
  return shape.length === 1 && shape[0] === 0;
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
