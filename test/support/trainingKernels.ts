import { getBackend } from '@tensorflow/tfjs-core';
import * as names from '../../src/core/names.js';

/** What a training step of mlaAttention in float32 runs on the current backend, each once. */
export function trainingKernels(): string[] {
  // TensorFlow forms all gradients in one op
  const gradients =
    getBackend() === 'tensorflow'
      ? [names.MLAAttentionBackward]
      : [names.MLADelta, names.MLAAttentionDq, names.MLAAttentionDkv];
  return [names.MLAAttention, ...gradients];
}
