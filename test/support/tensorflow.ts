/** TensorFlow, in a process of its own: its libraries and a GPU's drivers may bring the same symbols. */

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';

const made = [
  '../../node_modules/@tensorflow/tfjs-node/deps/lib',
  `../../native/mla-${process.platform}-${process.arch}.node`,
];

/** Whether a process that asks for TensorFlow would get it here. */
export const isTensorflowSetUp = made.every((path) => existsSync(new URL(path, import.meta.url)));

/** Set by npm run mocha:tensorflow. */
export const isTensorflowProcess = process.env.MLA_TEST_BACKEND === 'tensorflow';

/** The tfjs-node that the tests run on: the installed one, or a copy that npm run test:tensorflow-2.21 names. */
export const tfjsNode = process.env.MLA_TEST_TFJS_NODE ?? '@tensorflow/tfjs-node';

/** Loads tfjs-node and our ops. Resolves to what is missing, or to undefined. */
export async function loadTensorflow(): Promise<string | undefined> {
  // on a GPU TensorFlow multiplies float32 matrices in TF32, which is too coarse to compare with
  process.env.NVIDIA_TF32_OVERRIDE ??= '0';
  try {
    // another one is taken by being there first
    if (process.env.MLA_TEST_TFJS_NODE) createRequire(import.meta.url)(tfjsNode);
    await import('../../src/node.js');
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
