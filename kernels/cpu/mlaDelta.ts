/** B1 of gradients/README.md. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DeltaInputs } from '../../src/core/kernelInputs.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { dot, floatsOf, resultRows, startOf } from './rows.js';

/** MLADelta: out, dOut, dLse (or absent) → delta [b, hq, sq]. */
export function mlaDelta(
  { b: batch, hq, sq, dv, strides }: MlaProblem,
  { out, dOut, dLse }: DeltaInputs,
  backend: MathBackendCPU,
): TensorInfo {
  const delta = new Float32Array(batch * hq * sq);
  const outRows = resultRows(floatsOf(backend, out), strides.out);
  const dOutRows = resultRows(floatsOf(backend, dOut), strides.out);
  const dLseValues = floatsOf(backend, dLse);
  const hasDLse = dLseValues.length > 0;
  for (let b = 0, stat = 0; b < batch; b++) {
    for (let h = 0; h < hq; h++) {
      for (let i = 0; i < sq; i++, stat++) {
        const start = startOf(outRows, b, i, h);
        delta[stat] = dot(outRows.values, start, dOutRows.values, start, dv);
        if (hasDLse) delta[stat] -= dLseValues[stat];
      }
    }
  }
  return backend.makeTensorInfo([batch, hq, sq], 'float32', delta);
}
