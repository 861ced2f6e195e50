import { initializers } from '@tensorflow/tfjs-layers';
import type { Shape, layers } from '@tensorflow/tfjs-layers';
import type { Tensor } from '@tensorflow/tfjs-core';
import { fail, shapeText } from '../core/errors.js';

/** What every tf.layers layer accepts: name, inputShape, dtype, trainable, … */
export type LayerArgs = NonNullable<ConstructorParameters<typeof layers.Layer>[0]>;

/** tfjs-layers hands inputs, shapes and masks over alone or in a list. */
export function first<T>(value: T | T[]): T {
  return Array.isArray(value) ? value[0] : value;
}

export function firstShape(shape: Shape | Shape[]): Shape {
  return Array.isArray(shape[0]) ? shape[0] : (shape as Shape);
}

/** The last axis of a layer's input, which must be known when the layer is built. */
export function lastAxis(fn: string, shape: Shape | Shape[]): number {
  const size = firstShape(shape).at(-1);
  if (typeof size !== 'number')
    fail(fn, `the last axis of the input must be known, got ${JSON.stringify(shape)}`);
  return size;
}

export function checkPositive(fn: string, sizes: Record<string, number>): void {
  for (const [name, size] of Object.entries(sizes)) {
    if (!Number.isInteger(size) || size < 1)
      fail(fn, `${name} must be a positive integer, got ${String(size)}`);
  }
}

export function checkInput(fn: string, x: Tensor, rank: number, expected: string): void {
  if (x.rank !== rank) fail(fn, `the input must be ${expected}, got ${shapeText(x.shape)}`);
}

/** Normal weights of the given deviation; a seed makes them repeatable, and `index` tells a layer's weights apart. */
export function normal(
  stddev: number,
  seed: number | undefined,
  index: number,
): ReturnType<typeof initializers.randomNormal> {
  // tfjs takes seed 0 for no seed
  const ownSeed = seed === undefined ? undefined : seed * 31 + index + 1;
  return initializers.randomNormal({ mean: 0, stddev, seed: ownSeed });
}
