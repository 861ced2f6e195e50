import type { GradConfig } from '@tensorflow/tfjs-core';
import { MLALinear, runLinearBackwardKernel } from '../src/core/rowKernels.js';

/** y_i = x·W_iᵀ: dX = Σ_i dY_i·W_i, dW_i = dY_iᵀ·x. All at once: what thunks share, the first would dispose of. */
export const linearGradient: GradConfig = {
  kernelName: MLALinear,
  saveAllInputs: true,
  gradFunc: (dYs, inputs) => {
    const gradients = runLinearBackwardKernel(inputs, [dYs].flat());
    return Object.fromEntries(gradients.map((gradient, input) => [input, () => gradient]));
  },
};
