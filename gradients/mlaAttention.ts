import { engine } from '@tensorflow/tfjs-core';
import type { GradConfig, Tensor } from '@tensorflow/tfjs-core';
import { MLAAttention, MLAAttentionBackward, MLAAttentionDkv, MLAAttentionDq } from '../src/core/names.js';
import type { MlaProblem } from '../src/core/problem.js';
import { isBackwardJoined } from '../src/core/register.js';
import { runDelta } from './delta.js';

/** B1-B7 of README.md. All of it runs at once: results shared between the thunks would be disposed by the first. */
export const mlaAttentionGradient: GradConfig = {
  kernelName: MLAAttention,
  inputsToSave: ['q', 'k', 'v', 'kRope', 'qLengths', 'kvLengths'],
  outputsToSave: [true, true],
  gradFunc: (dys, saved, attrs) => {
    const [q, k, v, kRope, qLengths, kvLengths, out, lse] = saved;
    const [dOut, dLse] = dys as Tensor[];
    const problem = attrs as unknown as MlaProblem;
    const delta = runDelta(out, dOut, dLse, problem);
    const inputs = { q, k, v, kRope, qLengths, kvLengths, dOut, lse, delta };
    const run = (kernel: string): Tensor[] =>
      [engine().runKernel<Tensor | Tensor[]>(kernel, inputs, attrs)].flat();
    const [dQ, dK, dV, dKRope] = isBackwardJoined(problem)
      ? run(MLAAttentionBackward)
      : [...run(MLAAttentionDq), ...run(MLAAttentionDkv)];
    return { q: () => dQ, k: () => dK, v: () => dV, kRope: () => dKRope };
  },
};
