/** Ops of ours through tfjs-node's backend, on raw handles. */
import * as tf from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from '../../kernels/tensorflow/index.js';

/** What the tests need of the backend beside its kernels: raw handles, for types that JavaScript cannot hold. */
export interface RawBackend extends TensorflowBackend {
  getInputTensorIds(tensors: tf.TensorInfo[]): number[];
  createOutputTensor(metadata: Handle): tf.Tensor;
  readonly binding: TensorflowBackend['binding'] & {
    executeOp(op: string, attributes: Attribute[], ids: number[], outputs: number): Handle[];
    createTensor(shape: number[], dtype: number, values: tf.TypedArray): number;
    deleteTensor(id: number): void;
    getNumOfTensors(): number;
  };
}
export interface Handle {
  id: number;
  shape: number[];
  dtype: number;
}
export interface Attribute {
  name: string;
  type: number;
  value: string | number;
}

/** TensorFlow's number for the type. */
export const float = 1;

export function backendOf(): RawBackend {
  return tf.backend() as RawBackend;
}

/** Those that say how attention is computed, causal and without a window. */
export function attributes(type: number, scale: number): Attribute[] {
  const { TF_ATTR_TYPE, TF_ATTR_STRING, TF_ATTR_FLOAT, TF_ATTR_INT } = backendOf().binding;
  return [
    { name: 'T', type: TF_ATTR_TYPE, value: type },
    { name: 'layout', type: TF_ATTR_STRING, value: 'bshd' },
    { name: 'softmax_scale', type: TF_ATTR_FLOAT, value: scale },
    { name: 'causal', type: TF_ATTR_STRING, value: 'bottom-right' },
    { name: 'window_left', type: TF_ATTR_INT, value: -1 },
    { name: 'window_right', type: TF_ATTR_INT, value: -1 },
  ];
}
