/** What a call through tfjs-node costs beside its work: our ops and stock ops on tensors of a few numbers. */
import * as tf from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from '../../kernels/tensorflow/index.js';
import { mlaAttention } from '../../src/index.js';

export interface CallFigure {
  name: string;
  inputs: number;
  outputs: number;
  /** microseconds a call, the quickest of several streams */
  us: number;
}

const calls = 10_000;
const streams = 5;

type Attribute = Parameters<TensorflowBackend['executeMultipleOutputs']>[1][number];

export function benchCalls(): CallFigure[] {
  if (tf.getBackend() !== 'tensorflow') throw new Error('calls are measured on backend tensorflow alone');
  const backend = tf.backend() as TensorflowBackend;
  const { TF_ATTR_TYPE, TF_ATTR_FLOAT, TF_FLOAT } = backend.binding;
  const type = { name: 'T', type: TF_ATTR_TYPE, value: TF_FLOAT };
  const scale = { name: 'softmax_scale', type: TF_ATTR_FLOAT, value: 1 };
  const index = { name: 'Index', type: TF_ATTR_TYPE, value: 3 };
  const x = tf.ones<tf.Rank.R4>([1, 1, 1, 4]);
  const [matrix, two] = [tf.ones([4, 16]), tf.scalar(2, 'int32')];
  const [none, noLengths, bools] = [tf.ones([0]), tf.tensor1d([], 'int32'), tf.ones([4, 16], 'bool')];
  const op = (name: string, attributes: Attribute[], inputs: tf.Tensor[], outputs: number): CallFigure => ({
    name,
    inputs: inputs.length,
    outputs,
    us: quickest(() => tf.dispose(backend.executeMultipleOutputs(name, attributes, inputs, outputs))),
  });
  const ofTensors = (
    name: string,
    inputs: number,
    outputs: number,
    call: () => tf.TensorContainer,
  ): CallFigure => ({
    name,
    inputs,
    outputs,
    us: quickest(() => tf.dispose(call())),
  });
  const figures = [
    op('TopKV2', [type, index], [matrix, two], 2),
    op('SelectV2', [type], [bools, matrix, matrix], 1),
    op('MLADelta', [type], [x, x, none], 1),
    op('MLAAttention', [type, scale], [x, x, x, none, noLengths, noLengths], 2),
    ofTensors('tf.topk(x)', 1, 2, () => tf.topk(matrix, 2)),
    ofTensors('mlaAttention(q, k, v)', 3, 1, () => mlaAttention(x, x, x)),
  ];
  tf.dispose([x, matrix, two, none, noLengths, bools]);
  return figures;
}

function quickest(call: () => void): number {
  const times: number[] = [];
  for (let stream = 0; stream <= streams; stream++) {
    const start = performance.now();
    for (let n = 0; n < calls; n++) call();
    times.push((1000 * (performance.now() - start)) / calls);
  }
  return Math.min(...times.slice(1));
}
