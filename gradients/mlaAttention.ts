import { engine } from '@tensorflow/tfjs-core';
import type { GradConfig, NamedTensorMap, Tensor } from '@tensorflow/tfjs-core';
import { MLAAttention, MLAAttentionBackward, MLAAttentionDkv, MLAAttentionDq } from '../src/core/names.js';
import type { MlaProblem } from '../src/core/problem.js';
import { isBackwardJoined } from '../src/core/register.js';
import { deltaInputs, runDelta } from './delta.js';

/** B1-B7 of README.md. All of it runs at once: results shared between the thunks would be disposed by the first. */
export const mlaAttentionGradient: GradConfig = {
  kernelName: MLAAttention,
  inputsToSave: ['q', 'k', 'v', 'kRope', 'qLengths', 'kvLengths'],
  outputsToSave: [true, true],
  gradFunc: (ofResults, saved, attrs) => {
    const [q, k, v, kRope, qLengths, kvLengths, out, lse] = saved;
    const dys = ofResults as Tensor[];
    const [dOut] = dys;
    const problem = attrs as unknown as MlaProblem;
    const given = { q, k, v, kRope, qLengths, kvLengths, dOut, lse };
    const run = (kernel: string, inputs: NamedTensorMap): Tensor[] =>
      [engine().runKernel<Tensor | Tensor[]>(kernel, inputs, attrs)].flat();
    const runJoined = (): Tensor[] =>
      run(MLAAttentionBackward, { ...given, ...deltaInputs(out, dys, problem) });
    const runParts = (): Tensor[] => {
      const inputs = { ...given, delta: runDelta(out, dys, problem) };
      return [...run(MLAAttentionDq, inputs), ...run(MLAAttentionDkv, inputs)];
    };
    const [dQ, dK, dV, dKRope] = isBackwardJoined(problem) ? runJoined() : runParts();
    return { q: () => dQ, k: () => dK, v: () => dV, kRope: () => dKRope };
  },
};
