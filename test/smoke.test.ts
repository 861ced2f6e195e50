/** Every device computes, through tfjs alone: what fails here is the machine or the harness, not our code. */
import * as tf from '@tensorflow/tfjs-core';
import { onEachDevice } from './support/devices.js';

describe('smoke', () => {
  onEachDevice(({ backend }) => {
    it('multiplies two matrices', async () => {
      const product = tf.matMul(tf.tensor2d([1, 2, 3, 4], [2, 2]), tf.tensor2d([5, 6, 7, 8], [2, 2]));
      tf.test_util.expectArraysEqual(await product.data(), [19, 22, 43, 50]);
      tf.util.assert(
        tf.getBackend() === backend,
        () => `expected backend ${backend}, got ${tf.getBackend()}`,
      );
    });
  });
});
