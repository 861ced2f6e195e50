import type { GradConfig, Tensor } from '@tensorflow/tfjs-core';
import { MLARMSNorm, MLARMSNormBackward, runRowKernel } from '../src/core/rowKernels.js';

/** Of a norm whose caller goes on with the sum too. */
export const rmsNormGradient: GradConfig = {
  kernelName: MLARMSNorm,
  inputsToSave: ['gain'],
  outputsToSave: [false, true],
  gradFunc: (dys, [gain, sum], attrs) => {
    const [dY, dSum] = dys as Tensor[];
    const { eps } = attrs as { eps: number };
    const [dX, dGain] = runRowKernel(MLARMSNormBackward, { dY, sum, gain, dSum }, { eps });
    // two tensors of one memory: tfjs disposes of a gradient once it has added another to it
    return { x: () => dX, gain: () => dGain, addend: () => dX.clone() };
  },
};
