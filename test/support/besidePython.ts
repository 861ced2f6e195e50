/**
 * What python/tests compare with: hashes of the bits that Node's ops and gradients give on the golden cases of attention, and
 * the answer of the SavedModel whose folder is given, for the numbers 0 to 55 in [2, 7, 2, 2]. As JSON; exit code 3, with the
 * reason, where tfjs-node has no TensorFlow.
 */
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import * as tf from '@tensorflow/tfjs-core';
// registers the gradients of tfjs's own ops, which the loss is made of
import '@tensorflow/tfjs-layers';
import { mlaAttention } from '../../src/index.js';
import { goldenFolders, maskOf, readManifest, readTensors } from './golden.js';
import { toTensor } from './onDevice.js';
import { loadTensorflow } from './tensorflow.js';

interface TfjsNode {
  node: {
    loadSavedModel: (
      folder: string,
    ) => Promise<{ predict: (inputs: tf.NamedTensorMap) => tf.NamedTensorMap }>;
  };
}

const missing = await loadTensorflow();
if (missing) {
  console.error(missing);
  process.exit(3);
}
await tf.setBackend('tensorflow');

async function hashOf(tensor: tf.Tensor): Promise<string> {
  const { buffer, byteOffset, byteLength } = await tensor.data();
  return createHash('sha256')
    .update(Buffer.from(buffer, byteOffset, byteLength))
    .digest('hex');
}

const cases: Record<string, string[]> = {};
for (const entry of (await readManifest(goldenFolders.part, 'attention')) ?? []) {
  const data = await readTensors(goldenFolders.part, 'attention', entry);
  if (!('expected.dq' in data)) continue;
  const names = entry.kForm === 'split' ? ['q', 'k_nope', 'v', 'k_rope'] : ['q', 'k', 'v'];
  const options = {
    ...maskOf(entry),
    layout: entry.attrs.layout as 'bshd',
    softmaxScale: entry.attrs.scale ?? undefined,
  };
  const run = (...[q, k, v, kRope]: tf.Tensor[]): { out: tf.Tensor; lse: tf.Tensor } =>
    mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {
      ...options,
      kRope: kRope as tf.Tensor3D | undefined,
      returnLse: true,
    });
  const inputs = names.map((name) => toTensor(data[name]));
  const { out, lse } = run(...inputs);
  const gradients = tf.grads((...x) => run(...x).out)(inputs, toTensor(data.dout));
  cases[entry.name] = await Promise.all([out, lse, ...gradients].map(hashOf));
}

const { node } = createRequire(import.meta.url)('@tensorflow/tfjs-node') as TfjsNode;
const model = await node.loadSavedModel(process.argv[2]);
const { out } = model.predict({ x: tf.reshape(tf.range(0, 56), [2, 7, 2, 2]) });
console.log(JSON.stringify({ cases, savedModel: await hashOf(out) }));
