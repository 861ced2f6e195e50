import { getGradient, registerGradient } from '@tensorflow/tfjs-core';
import { mlaAttentionGradient } from './mlaAttention.js';
import { mlaDecodeGradient } from './mlaDecode.js';

/** Registers the gradients of MLAAttention and MLADecode; a second call does nothing. */
export function registerGradients(): void {
  for (const gradient of [mlaAttentionGradient, mlaDecodeGradient]) {
    if (!getGradient(gradient.kernelName)) registerGradient(gradient);
  }
}
