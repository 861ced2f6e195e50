/** Plain data into tensors of the current backend and back, with traps around them. */
import * as tf from '@tensorflow/tfjs-core';
import { sizeOf } from '../../src/core/layout.js';
import type { Case } from '../cases.js';
import type { Device } from './devices.js';
import { poisonPastLengths } from './inputs.js';
import type { Data, DataByName } from './inputs.js';

/** Whether this is a browser. */
export const isPage = typeof document !== 'undefined';

/** Why a case does not run on a device; undefined if it does. */
export function whySkipped({ cost }: Case, { backend, isSoftware }: Device): string | undefined {
  if (backend !== 'webgpu' || !isSoftware || cost === 'small') return undefined;
  if (cost === 'large') return 'large, runs on hardware and on the CPU backends';
  return isPage ? 'medium, runs in Node' : undefined;
}

/** One test per case, or a skipped one that says why. */
export function itForEach<C extends Case>(cases: C[], device: Device, run: (c: C) => Promise<void>): void {
  for (const c of cases) {
    const title = `${c.op}: ${c.name}`;
    const reason = whySkipped(c, device);
    if (reason) it.skip(`${title} (${reason})`);
    else it(title, () => run(c));
  }
}

/** On a copy of the values: the cpu backend would keep the array itself, and a kernel that writes would change both. */
export function toTensor({ values, shape }: Data): tf.Tensor {
  return tf.tensor(values.slice(), shape, values instanceof Int32Array ? 'int32' : 'float32');
}

export function toTensors(data: DataByName, names: string[]): tf.Tensor[] {
  return names.map((name) => toTensor(data[name]));
}

/** The same values in a tensor that shares its buffer with one of another shape, or is cut from a larger one. */
export function toView(data: Data, index: number): tf.Tensor {
  const { values, shape } = data;
  if (values instanceof Int32Array || values.length === 0) return toTensor(data);
  return tf.tidy(() => {
    if (index % 2 === 0) return tf.reshape(tf.tensor1d(values.slice()), shape);
    const padded = new Float32Array(values.length + 9).fill(NaN);
    padded.set(values, 5);
    return tf.reshape(tf.slice(tf.tensor1d(padded), 5, values.length), shape);
  });
}

export async function read(tensor: tf.Tensor): Promise<{ shape: number[]; values: tf.TypedArray }> {
  return { shape: tensor.shape, values: await tensor.data() };
}

/** NaN in all that lies past the lengths: keys and values past kvLengths, rows and what belongs to them past qLengths. */
export function poisoned(c: Case, data: DataByName): DataByName {
  const qLengths = c.op === 'mlaAttention' ? c.qLengths : undefined;
  const ofKeys = ['k', 'v', 'kRope', 'cKv'];
  return Object.fromEntries(
    Object.entries(data).map(([name, tensor]) => {
      const isDLse = name === 'dLse' && tensor.values.length === 0;
      return [
        name,
        isDLse ? tensor : poisonPastLengths(tensor, ofKeys.includes(name) ? c.kvLengths : qLengths),
      ];
    }),
  );
}

/**
 * For suites that differentiate composed ops: what tf.customGrad saves outlives the op, and tfjs's check for leaking
 * kernels (flag IS_TEST) takes it for a leak. The suites count tensors themselves.
 */
export function allowSavedTensors(): void {
  before(() => tf.env().set('IS_TEST', false));
  after(() => tf.env().set('IS_TEST', true));
}

/**
 * Leaves buffers full of NaN in the backend's pool, several of each size that is needed next: what a kernel forgets to
 * write shows. (The cpu backend has no pool.)
 */
export async function poisonPool(shapes: number[][]): Promise<void> {
  const sizes = shapes.filter((shape) => sizeOf(shape) > 0);
  // inputs of the same size, sentinels and scratch take some of them
  const garbage = sizes.flatMap((shape) => Array.from({ length: 6 }, () => tf.fill(shape, NaN)));
  // a read submits all that is waiting, and only then do buffers go back to the pool
  await garbage.at(-1)?.data();
  tf.dispose(garbage);
}
