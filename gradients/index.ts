import { getGradient, registerGradient } from '@tensorflow/tfjs-core';
import { linearGradient } from './linear.js';
import { mlaAttentionGradient } from './mlaAttention.js';
import { mlaDecodeGradient } from './mlaDecode.js';
import { rmsNormGradient } from './rmsNorm.js';

/** Registers the gradients of our kernels that have one of their own; a second call does nothing. */
export function registerGradients(): void {
  for (const gradient of [mlaAttentionGradient, mlaDecodeGradient, linearGradient, rmsNormGradient]) {
    if (!getGradient(gradient.kernelName)) registerGradient(gradient);
  }
}
