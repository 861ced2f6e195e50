/** What every kernel must give for a case, from the reference: the kernels of the 'cpu' backend, run beside any other. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import { findBackend, getKernel } from '@tensorflow/tfjs-core';
import type { NamedTensorInfoMap, TensorInfo } from '@tensorflow/tfjs-core';
import '../../src/index.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { Case } from '../cases.js';
import { inputsOf, problemOf } from './inputs.js';
import type { Data, DataByName } from './inputs.js';
import { sees } from './naive.js';

export type ComparedKernel = Exclude<KernelName, 'MLACacheAppend'>;

/** Inputs and outputs of each kernel by name, as product.md lists them. */
export const signatures: Record<ComparedKernel, { inputs: string[]; outputs: string[] }> = {
  MLAAttention: {
    inputs: ['q', 'k', 'v', 'kRope', 'qLengths', 'kvLengths'],
    outputs: ['out', 'lse'],
  },
  MLADelta: { inputs: ['out', 'dOut', 'dLse'], outputs: ['delta'] },
  MLAAttentionDq: {
    inputs: ['q', 'k', 'v', 'kRope', 'qLengths', 'kvLengths', 'dOut', 'lse', 'delta'],
    outputs: ['dQ'],
  },
  MLAAttentionDkv: {
    inputs: ['q', 'k', 'v', 'kRope', 'qLengths', 'kvLengths', 'dOut', 'lse', 'delta'],
    outputs: ['dK', 'dV', 'dKRope'],
  },
  MLAAttentionBackward: {
    inputs: ['q', 'k', 'v', 'kRope', 'qLengths', 'kvLengths', 'dOut', 'lse', 'out', 'dLse'],
    outputs: ['dQ', 'dK', 'dV', 'dKRope'],
  },
  MLADecode: { inputs: ['qLatent', 'qRope', 'cKv', 'kRope', 'kvLengths'], outputs: ['out', 'lse'] },
  MLADecodeDq: {
    inputs: ['qLatent', 'qRope', 'cKv', 'kRope', 'kvLengths', 'dOut', 'lse', 'delta'],
    outputs: ['dQLatent', 'dQRope'],
  },
  MLADecodeDkv: {
    inputs: ['qLatent', 'qRope', 'cKv', 'kRope', 'kvLengths', 'dOut', 'lse', 'delta'],
    outputs: ['dCkv', 'dKRope'],
  },
};

export interface Answers {
  problem: MlaProblem;
  /** every input and output of every kernel of the case's op */
  tensors: DataByName;
}

const known = new Map<Case, Answers>();

/** Computed once a case, however many kernels and devices ask. */
export function answersOf(c: Case): Answers {
  const answers = known.get(c) ?? computeAnswers(c);
  known.set(c, answers);
  return answers;
}

function computeAnswers(c: Case): Answers {
  const problem = problemOf(c);
  const tensors = inputsOf(c);
  const isDecode = c.op === 'mlaDecode';
  const order: ComparedKernel[] = isDecode
    ? ['MLADecode', 'MLADelta', 'MLADecodeDq', 'MLADecodeDkv']
    : ['MLAAttention', 'MLADelta', 'MLAAttentionDq', 'MLAAttentionDkv'];
  for (const kernel of order) Object.assign(tensors, runReference(kernel, tensors, problem));
  if (hasNoChoice(c)) {
    const zeros = isDecode ? ['dQLatent', 'dQRope', 'dKRope'] : ['dQ', 'dK', 'dKRope'];
    for (const name of zeros) tensors[name].values.fill(0);
  }
  return { problem, tensors };
}

/** Runs one kernel of the reference on plain data. */
export function runReference(kernel: ComparedKernel, tensors: DataByName, problem: MlaProblem): DataByName {
  const backend = findBackend('cpu') as MathBackendCPU;
  const { inputs: inputNames, outputs: outputNames } = signatures[kernel];
  const inputs: NamedTensorInfoMap = Object.fromEntries(
    inputNames.map((name) => {
      const { shape, values } = tensors[name];
      const dtype = values instanceof Int32Array ? 'int32' : 'float32';
      return [name, backend.makeTensorInfo(shape, dtype, values.slice())];
    }),
  );
  const { kernelFunc } = getKernel(kernel, 'cpu');
  const outputs = [kernelFunc({ inputs, attrs: { ...problem }, backend })].flat();
  const results = outputNames.map((name, index): [string, Data] => {
    const { shape, dataId } = outputs[index];
    const values = backend.data.get(dataId).values as Float32Array;
    return [name, { axes: axesOf(name, tensors), shape, values }];
  });
  for (const info of [...Object.values(inputs), ...outputs] as TensorInfo[]) backend.disposeData(info.dataId);
  return Object.fromEntries(results);
}

/** A gradient lies like its input, out like dOut, and there is one lse and one delta per row of out. */
function axesOf(name: string, tensors: DataByName): string {
  if (name === 'lse' || name === 'delta') return 'bhs';
  if (name === 'out') return tensors.dOut.axes;
  const input = Object.keys(tensors).find((other) => `d${other}`.toLowerCase() === name.toLowerCase());
  return tensors[input ?? 'dOut'].axes;
}

/**
 * True when no row sees two keys and lse has no gradient: all p are 0 or 1 then, the scores do not matter, and
 * what is computed for their gradients is rounding noise around 0.
 */
function hasNoChoice(c: Case): boolean {
  if (c.hasDLse) return false;
  for (let b = 0; b < c.b; b++) {
    for (let i = 0; i < c.sq; i++) {
      let seen = 0;
      for (let j = 0; j < c.skv && seen < 2; j++) seen += sees(c, b, i, j) ? 1 : 0;
      if (seen > 1) return false;
    }
  }
  return true;
}
