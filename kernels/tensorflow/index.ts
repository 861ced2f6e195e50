/** Our TensorFlow ops as the kernels of tfjs's 'tensorflow' backend (tfjs-node). */
import { findBackend } from '@tensorflow/tfjs-core';
import type { KernelBackend, Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { registerKernels } from '../../src/core/register.js';
import { registerRowKernels } from '../../src/core/rowKernels.js';
import { keepAbsents } from '../../src/core/tensors.js';
import type { Kernels, Plan } from '../../src/core/register.js';
import type { AttentionInputs, BackwardInputs, DecodeInputs } from '../../src/core/kernelInputs.js';
import { planOnGpu, precisionOnGpu, requireCuda } from './gpu.js';
import { forgetHostCopies } from './hostCopies.js';
import { registerOps } from './native.js';
import { linearKernels, rowKernels } from './rows.js';
import type { NativeReport } from './native.js';

const backendName = 'tensorflow';

/** Of an op, as the binding wants it; `type` is one of its own numbers. */
export interface Attribute {
  name: string;
  type: number;
  value: number | string | boolean;
}

/** What we use of tfjs-node's backend, which its types do not show. */
export interface TensorflowBackend extends KernelBackend {
  readonly isUsingGpuDevice: boolean;
  readonly binding: Record<
    'TF_ATTR_TYPE' | 'TF_ATTR_STRING' | 'TF_ATTR_FLOAT' | 'TF_ATTR_INT' | 'TF_ATTR_BOOL' | 'TF_FLOAT',
    number
  > & {
    readonly TF_Version: string;
  };
  executeMultipleOutputs(
    op: string,
    attributes: Attribute[],
    inputs: TensorInfo[],
    outputs: number,
  ): Tensor[];
}

const kernels: Kernels<TensorflowBackend> = {
  [names.MLAAttention]: (problem, inputs, backend) =>
    run(names.MLAAttention, problem, attentionInputs(inputs), 2, backend),
  [names.MLADelta]: (problem, { out, dOut, dLse }, backend) =>
    run(names.MLADelta, problem, [out, dOut, dLse], 1, backend)[0],
  [names.MLAAttentionDq]: (problem, inputs, backend) =>
    run(
      names.MLAAttentionDq,
      problem,
      [...attentionInputs(inputs), ...backwardInputs(inputs)],
      1,
      backend,
    )[0],
  [names.MLAAttentionDkv]: (problem, inputs, backend) =>
    run(names.MLAAttentionDkv, problem, [...attentionInputs(inputs), ...backwardInputs(inputs)], 3, backend),
  [names.MLAAttentionBackward]: (problem, inputs, backend) =>
    run(
      names.MLAAttentionBackward,
      problem,
      [...attentionInputs(inputs), inputs.dOut, inputs.lse, inputs.out, inputs.dLse],
      4,
      backend,
    ),
  [names.MLADecode]: (problem, inputs, backend) =>
    run(names.MLADecode, problem, decodeInputs(inputs), 2, backend),
  [names.MLADecodeDq]: (problem, inputs, backend) =>
    run(names.MLADecodeDq, problem, [...decodeInputs(inputs), ...backwardInputs(inputs)], 2, backend),
  [names.MLADecodeDkv]: (problem, inputs, backend) =>
    run(names.MLADecodeDkv, problem, [...decodeInputs(inputs), ...backwardInputs(inputs)], 2, backend),
  // in place: the op writes through the memory of its inputs
  [names.MLACacheAppend]: (_problem, { cKv, kRope, newCkv, newKRope, lengths }, backend) => {
    const inputs = [cKv, kRope, newCkv, newKRope, lengths];
    const none = backend.executeMultipleOutputs(names.MLACacheAppend, [], inputs, 0);
    if (backend.isUsingGpuDevice) forgetHostCopies([cKv, kRope], backend);
    return none;
  },
};

/**
 * Registers the ops with TensorFlow and the kernels with tfjs; a second call does nothing. Throws if tfjs-node computes on
 * a GPU that there are no kernels for, or as registerOps does. `noGpu` is why a GPU is passed over, for explain().
 */
export function registerTensorflowKernels(noGpu?: string): void {
  const backend = findBackend(backendName) as TensorflowBackend;
  const { isUsingGpuDevice } = backend;
  const report = registerOps();
  const cuda = isUsingGpuDevice ? requireCuda(report) : undefined;
  keepAbsents(backend); // a new tensor on its way to a GPU takes longer than an op
  registerKernels(backendName, kernels, {
    cacheFormats: ['float32'],
    isBackwardJoined: () => true,
    plan: (kernel, problem) => ({
      kernel,
      backend: backendName,
      ...(cuda ? planOnGpu(kernel, problem, cuda) : planOnCpu(problem, report, noGpu)),
    }),
    compile: () => Promise.resolve(),
  });
  registerRowKernels(backendName, rowKernels);
  if (cuda && cuda.noCublas === undefined) registerRowKernels(backendName, linearKernels);
}

function attentionInputs({ q, k, v, kRope, qLengths, kvLengths }: AttentionInputs): TensorInfo[] {
  return [q, k, v, kRope, qLengths, kvLengths];
}

function decodeInputs({ qLatent, qRope, cKv, kRope, kvLengths }: DecodeInputs): TensorInfo[] {
  return [qLatent, qRope, cKv, kRope, kvLengths];
}

function backwardInputs({ dOut, lse, delta }: BackwardInputs): TensorInfo[] {
  return [dOut, lse, delta];
}

/**
 * Attributes are part of the key of a cache that TensorFlow never empties: no length is among them. Each takes time in every
 * call: those that have the op's default (op.c) are left out, and T, which is that of the inputs.
 */
function run(
  op: KernelName,
  problem: MlaProblem,
  inputs: TensorInfo[],
  outputs: number,
  backend: TensorflowBackend,
): Tensor[] {
  const { layout, softmaxScale, causal, window } = problem;
  const { TF_ATTR_STRING, TF_ATTR_FLOAT, TF_ATTR_INT } = backend.binding;
  const attributes: Attribute[] = [];
  const add = (name: string, type: number, value: string | number, byDefault?: string | number): void => {
    if (value !== byDefault) attributes.push({ name, type, value });
  };
  add('layout', TF_ATTR_STRING, layout, 'bshd');
  if (op !== names.MLADelta) {
    add('softmax_scale', TF_ATTR_FLOAT, softmaxScale);
    add('causal', TF_ATTR_STRING, causal, 'none');
    add('window_left', TF_ATTR_INT, window[0], -1);
    add('window_right', TF_ATTR_INT, window[1], -1);
    // CPUs know float32 alone: one cached kernel for all precisions
    if (backend.isUsingGpuDevice) add('precision', TF_ATTR_STRING, precisionOnGpu(problem), 'float32');
  }
  return backend.executeMultipleOutputs(op, attributes, inputs, outputs);
}

function planOnCpu(
  { precision }: MlaProblem,
  { instructions, threads }: NativeReport,
  noGpu?: string,
): Omit<Plan, 'kernel' | 'backend'> {
  const isNarrow = precision !== 'float32' && precision !== 'auto';
  const narrow = { candidate: precision, reason: "TensorFlow's CPU device computes in float32" };
  return {
    lane: instructions,
    computePrecision: 'float32',
    tile: { THREADS: threads },
    cacheKey: '',
    passedOver: [
      ...(noGpu === undefined ? [] : [{ candidate: 'GPU', reason: noGpu }]),
      ...(isNarrow ? [narrow] : []),
    ],
  };
}
