/** What stands for absent inputs of our ops. */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from './index.js';

type Dtype = 'float32' | 'int32';

const kept = new WeakMap<TensorflowBackend, Record<Dtype, TensorInfo>>();

/**
 * A tensor without elements. It is kept, as TensorFlow copies a tensor of the host that is new to it to the GPU, which takes
 * longer than an op.
 */
export function absentInput(dtype: Dtype, backend: TensorflowBackend): TensorInfo {
  const ofBackend = kept.get(backend) ?? keep(backend);
  return ofBackend[dtype];
}

export function isAbsent({ shape }: TensorInfo): boolean {
  return shape.length === 1 && shape[0] === 0;
}

/** The inputs, with what is kept in the place of absent ones. */
export function withAbsentInputs(inputs: TensorInfo[], backend: TensorflowBackend): TensorInfo[] {
  return inputs.map((input) => (isAbsent(input) ? absentInput(input.dtype as Dtype, backend) : input));
}

function keep(backend: TensorflowBackend): Record<Dtype, TensorInfo> {
  const shape = [0];
  const ofBackend: Record<Dtype, TensorInfo> = {
    float32: { dataId: backend.write(new Float32Array(0), shape, 'float32'), shape, dtype: 'float32' },
    int32: { dataId: backend.write(new Int32Array(0), shape, 'int32'), shape, dtype: 'int32' },
  };
  kept.set(backend, ofBackend);
  return ofBackend;
}
