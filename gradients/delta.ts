import { engine } from '@tensorflow/tfjs-core';
import type { Tensor } from '@tensorflow/tfjs-core';
import type { DeltaInputs } from '../src/core/kernelInputs.js';
import { MLADelta } from '../src/core/names.js';
import type { MlaProblem } from '../src/core/problem.js';
import { absent } from '../src/core/tensors.js';

/**
 * What B1 of README.md is computed from. Without a holder of lse the engine hands over zeros made on the CPU; an absent dLse
 * says the same and need not be uploaded.
 */
export function deltaInputs(
  out: Tensor,
  [dOut, dLse]: Tensor[],
  problem: MlaProblem,
): Record<keyof DeltaInputs, Tensor> {
  return { out, dOut, dLse: problem.returnLse ? dLse : absent() };
}

export function runDelta(out: Tensor, dys: Tensor[], problem: MlaProblem): Tensor {
  return engine().runKernel(MLADelta, deltaInputs(out, dys, problem), problem);
}
