import { engine } from '@tensorflow/tfjs-core';
import type { Tensor } from '@tensorflow/tfjs-core';
import { MLADelta } from '../src/core/names.js';
import type { MlaProblem } from '../src/core/problem.js';
import { absent } from '../src/core/tensors.js';

/**
 * B1 of README.md. Without a holder of lse the engine hands over zeros made on the CPU; an absent dLse says the same
 * and need not be uploaded.
 */
export function runDelta(out: Tensor, dOut: Tensor, dLse: Tensor, problem: MlaProblem): Tensor {
  const inputs = { out, dOut, dLse: problem.returnLse ? dLse : absent() };
  return engine().runKernel(MLADelta, inputs, problem);
}
