/** TensorFlow, in a process of its own: its libraries and a GPU's drivers may bring the same symbols. */

import { existsSync } from 'node:fs';

const made = [
  '../../node_modules/@tensorflow/tfjs-node/deps/lib',
  `../../native/mla-${process.platform}-${process.arch}.node`,
];

/** Whether a process that asks for TensorFlow would get it here. */
export const isTensorflowSetUp = made.every((path) => existsSync(new URL(path, import.meta.url)));

/** Set by npm run mocha:tensorflow. */
export const isTensorflowProcess = process.env.MLA_TEST_BACKEND === 'tensorflow';

/** Loads tfjs-node and our ops. Resolves to what is missing, or to undefined. */
export async function loadTensorflow(): Promise<string | undefined> {
  try {
    await import('../../src/node.js');
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}
