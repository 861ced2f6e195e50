import { engine } from '@tensorflow/tfjs-core';
import type { GradConfig, Tensor } from '@tensorflow/tfjs-core';
import { MLADecode, MLADecodeDkv, MLADecodeDq } from '../src/core/names.js';
import type { MlaProblem } from '../src/core/problem.js';
import { runDelta } from './delta.js';

/** B1-B7 of README.md with cKv as key and value. */
export const mlaDecodeGradient: GradConfig = {
  kernelName: MLADecode,
  inputsToSave: ['qLatent', 'qRope', 'cKv', 'kRope', 'kvLengths'],
  outputsToSave: [true, true],
  gradFunc: (dys, saved, attrs) => {
    const [qLatent, qRope, cKv, kRope, kvLengths, out, lse] = saved;
    const [dOut, dLse] = dys as Tensor[];
    const delta = runDelta(out, dOut, dLse, attrs as unknown as MlaProblem);
    const inputs = { qLatent, qRope, cKv, kRope, kvLengths, dOut, lse, delta };
    const run = (kernel: string): Tensor[] =>
      engine().runKernel(kernel, inputs, attrs) as unknown as Tensor[];
    const [dQLatent, dQRope] = run(MLADecodeDq);
    const [dCkv, dKRope] = run(MLADecodeDkv);
    return { qLatent: () => dQLatent, qRope: () => dQRope, cKv: () => dCkv, kRope: () => dKRope };
  },
};
