import * as tf from '@tensorflow/tfjs-core';
import type { Device } from './devices.js';

/**
 * Inside a `describe`: lets tfjs multiply small matrices by tiles on a software GPU, too. There, the program that it
 * takes by itself (a workgroup and its barriers for every element) needs half a second a token.
 */
export function tileProductsInSoftware({ backend, isSoftware }: Device): void {
  if (backend !== 'webgpu' || !isSoftware) return;
  const flag = 'WEBGPU_MATMUL_PROGRAM_TYPE';
  before(() => {
    tf.env().set(flag, 3);
  });
  after(() => {
    tf.env().set(flag, -1);
  });
}
