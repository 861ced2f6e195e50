import { tensor2d } from '@tensorflow/tfjs-core';
import type { Tensor2D } from '@tensorflow/tfjs-core';
import { createRandom } from '../../src/models.js';

/** Bytes [b, s], and the byte that follows each of them. */
export interface Batch {
  inputs: Tensor2D;
  targets: Tensor2D;
}

export interface BatchShape {
  batch: number;
  sequence: number;
}

/** Windows at random places. A step's windows depend on seed and step only: resuming needs no other state. */
export function trainingBatch(
  text: Uint8Array,
  { batch, sequence }: BatchShape,
  seed: number,
  step: number,
): Batch {
  const random = createRandom(Math.imul(seed + 1, 0x9e3779b1) ^ Math.imul(step + 1, 0x85ebca6b));
  const places = text.length - sequence;
  return windows(
    text,
    Array.from({ length: batch }, () => Math.floor(random() * places)),
    sequence,
  );
}

/** Windows evenly spread over a text. */
export function evenBatch(
  text: Uint8Array,
  { batch, sequence }: BatchShape,
  first: number,
  total: number,
): Batch {
  const spacing = (text.length - sequence - 1) / total;
  return windows(
    text,
    Array.from({ length: batch }, (_, i) => Math.floor((first + i) * spacing)),
    sequence,
  );
}

function windows(text: Uint8Array, starts: number[], sequence: number): Batch {
  const shape: [number, number] = [starts.length, sequence];
  const inputs = new Int32Array(starts.length * sequence);
  const targets = new Int32Array(inputs.length);
  starts.forEach((start, row) => {
    inputs.set(text.subarray(start, start + sequence), row * sequence);
    targets.set(text.subarray(start + 1, start + 1 + sequence), row * sequence);
  });
  return { inputs: tensor2d(inputs, shape, 'int32'), targets: tensor2d(targets, shape, 'int32') };
}
