/** Partial attentions over parts of the keys, merged: the attention over all of them, gradients included. */
import * as tf from '@tensorflow/tfjs-core';
import { mergeStates, mlaAttention } from '../src/index.js';
import type { Layout } from '../src/index.js';
import { expectClose, forwardBounds, gradientBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import './support/losses.js';
import type { State } from './support/losses.js';
import { allowSavedTensors, read } from './support/onDevice.js';

const dims = { b: 2, h: 3, sq: 4, skv: 11, dqk: 16, dv: 12 };

function random(layout: Layout, s: number, d: number, seed: number): tf.Tensor4D {
  const sizes: Record<string, number> = { b: dims.b, s, h: dims.h, d };
  const shape = [...layout].map((axis) => sizes[axis]) as [number, number, number, number];
  return tf.randomNormal<tf.Rank.R4>(shape, 0, 1, 'float32', seed);
}

/** Keys [begin, begin + size) of a tensor in the layout. */
function keysOf(x: tf.Tensor4D, layout: Layout, begin: number, size: number): tf.Tensor4D {
  const axis = layout.indexOf('s');
  const starts = [0, 0, 0, 0].map((_, index) => (index === axis ? begin : 0)) as [
    number,
    number,
    number,
    number,
  ];
  const sizes = x.shape.map((dim, index) => (index === axis ? size : dim)) as [
    number,
    number,
    number,
    number,
  ];
  return tf.slice(x, starts, sizes);
}

/** Attention over three parts of the keys, the second of them empty, merged. */
function inParts(layout: Layout, q: tf.Tensor4D, k: tf.Tensor4D, v: tf.Tensor4D): State {
  const part = (begin: number, size: number): State =>
    mlaAttention(q, keysOf(k, layout, begin, size), keysOf(v, layout, begin, size), {
      layout,
      returnLse: true,
    });
  return mergeStates([part(0, 5), part(5, 0), part(5, 6)], { layout });
}

describe('mergeStates', () => {
  allowSavedTensors();

  onEachDevice(() => {
    for (const layout of ['bshd', 'bhsd', 'sbhd'] as const) {
      it(`of three parts is the whole, ${layout}`, async () => {
        const before = tf.memory().numTensors;
        const [q, k, v] = [
          random(layout, dims.sq, dims.dqk, 1),
          random(layout, dims.skv, dims.dqk, 2),
          random(layout, dims.skv, dims.dv, 3),
        ];
        const dOut = random(layout, dims.sq, dims.dv, 4);
        const dLse = tf.randomNormal([dims.b, dims.h, dims.sq], 0, 1, 'float32', 5);
        const whole = mlaAttention(q, k, v, { layout, returnLse: true });
        const merged = tf.tidy(() => ({ ...inParts(layout, q, k, v) }));
        expectClose('out', await read(merged.out), await read(whole.out), forwardBounds);
        expectClose('lse', await read(merged.lse), await read(whole.lse), forwardBounds);

        const gradientsOf = (run: (...x: tf.Tensor4D[]) => State): tf.Tensor[] => {
          const loss = (...x: tf.Tensor[]): tf.Tensor => {
            const { out, lse } = run(...(x as tf.Tensor4D[]));
            return tf.add(tf.sum(tf.mul(out, dOut)), tf.sum(tf.mul(lse, dLse)));
          };
          return tf.grads(loss)([q, k, v]);
        };
        const expected = gradientsOf((q1, k1, v1) => mlaAttention(q1, k1, v1, { layout, returnLse: true }));
        const got = gradientsOf((q1, k1, v1) => inParts(layout, q1, k1, v1));
        for (const [index, name] of ['dQ', 'dK', 'dV'].entries()) {
          expectClose(name, await read(got[index]), await read(expected[index]), gradientBounds);
        }
        tf.dispose([q, k, v, dOut, dLse, whole.out, whole.lse, merged.out, merged.lse, ...expected, ...got]);
        expectEqual(tf.memory().numTensors, before, 'tensors left');
      });
    }

    it('of one state is that state', async () => {
      const [out, lse] = [tf.ones<tf.Rank.R4>([1, 2, 1, 3]), tf.zeros<tf.Rank.R3>([1, 1, 2])];
      const merged = mergeStates([{ out, lse }]);
      expectEqual(
        [await merged.out.array(), await merged.lse.array()],
        [await out.array(), await lse.array()],
      );
      tf.dispose([out, lse]);
    });

    it('of rows that nobody has seen stays 0 and -Infinity, with gradients 0', async () => {
      const state = (): State => ({
        out: tf.zeros<tf.Rank.R4>([1, 2, 1, 3]),
        lse: tf.fill<tf.Rank.R3>([1, 1, 2], -Infinity),
      });
      const [first, second] = [state(), state()];
      const merged = mergeStates([first, second]);
      expectEqual(await merged.out.data(), new Float32Array(6), 'out');
      expectEqual(await merged.lse.data(), new Float32Array(2).fill(-Infinity), 'lse');
      const loss = (...[outA, lseA, outB, lseB]: tf.Tensor[]): tf.Tensor =>
        mergeStates([
          { out: outA as tf.Tensor4D, lse: lseA as tf.Tensor3D },
          { out: outB as tf.Tensor4D, lse: lseB as tf.Tensor3D },
        ]).out;
      const inputs = [first.out, first.lse, second.out, second.lse];
      const gradients = tf.grads(loss)(inputs, tf.ones([1, 2, 1, 3]));
      for (const gradient of gradients) {
        const values = await gradient.data();
        expectTrue(
          values.every((value) => value === 0),
          `gradients must be 0, got ${values.join(', ')}`,
        );
      }
      tf.dispose([...inputs, merged.out, merged.lse, ...gradients]);
    });
  });
});
