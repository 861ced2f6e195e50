import { engine } from '@tensorflow/tfjs-core';
import type { GradConfig, Tensor } from '@tensorflow/tfjs-core';
import { MLADecode, MLADecodeDkv, MLADecodeDq } from '../src/core/names.js';
import type { MlaProblem } from '../src/core/problem.js';
import { runDelta } from './delta.js';

/** B1-B7 of README.md with cKv as key and value. A packed cache holds rounded numbers: it has no gradient. */
export const mlaDecodeGradient: GradConfig = {
  kernelName: MLADecode,
  inputsToSave: ['qLatent', 'qRope', 'cKv', 'kRope', 'kvLengths'],
  outputsToSave: [true, true],
  gradFunc: (ofResults, saved, attrs) => {
    const [qLatent, qRope, cKv, kRope, kvLengths, out, lse] = saved;
    const dys = ofResults as Tensor[];
    const [dOut] = dys;
    const problem = attrs as unknown as MlaProblem;
    const delta = runDelta(out, dys, problem);
    const inputs = { qLatent, qRope, cKv, kRope, kvLengths, dOut, lse, delta };
    const run = (kernel: string): Tensor[] =>
      engine().runKernel(kernel, inputs, attrs) as unknown as Tensor[];
    const [dQLatent, dQRope] = run(MLADecodeDq);
    const ofQueries = { qLatent: () => dQLatent, qRope: () => dQRope };
    if (problem.cacheFormat !== 'float32') return ofQueries;
    const [dCkv, dKRope] = run(MLADecodeDkv);
    return { ...ofQueries, cKv: () => dCkv, kRope: () => dKRope };
  },
};
