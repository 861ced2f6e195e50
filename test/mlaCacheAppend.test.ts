/** MLACacheAppend alone: the right rows in place, every other number of the cache as it was. */
import * as tf from '@tensorflow/tfjs-core';
import '../src/index.js';
import '../src/webgpu.js';
import { appendCases } from './cases.js';
import type { AppendCase } from './cases.js';
import { expectSameBits } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual } from './support/expect.js';
import { floats, normals } from './support/inputs.js';
import type { Data } from './support/inputs.js';
import { toTensor, toView } from './support/onDevice.js';

interface Buffers {
  cache: Data;
  rows: Data;
}

function buffersOf({ name, b, capacity, n, counts }: AppendCase, part: string, d: number): Buffers {
  const random = normals(`append ${name} ${part}`);
  const cache = floats('bsd', { b, s: capacity, d }, random);
  const rows = floats('bsd', { b, s: n, d }, random);
  // rows that do not count may hold anything
  const values = rows.values.map((value, index) =>
    Math.floor(index / d) % n < counts[Math.floor(index / d / n)] ? value : NaN,
  );
  return { cache, rows: { ...rows, values: values } };
}

/** What the cache must hold afterwards; all that is not written keeps its value: the sentinel around the rows. */
function expectedOf(
  { b, capacity, n, lengths, counts }: AppendCase,
  { cache, rows }: Buffers,
  d: number,
): Float32Array {
  const expected = Float32Array.from(cache.values);
  for (let batch = 0; batch < b; batch++) {
    for (let row = 0; row < counts[batch]; row++) {
      for (let column = 0; column < d; column++) {
        const to = (batch * capacity + lengths[batch] + row) * d + column;
        expected[to] = rows.values[(batch * n + row) * d + column];
      }
    }
  }
  return expected;
}

describe('MLACacheAppend', () => {
  onEachDevice(() => {
    for (const c of appendCases) {
      for (const [how, makeTensor] of [['', toTensor] as const, [', views', toView] as const]) {
        it(`${c.name}${how}`, async () => {
          const { b, r, rr, lengths, counts } = c;
          const latents = buffersOf(c, 'latents', r);
          const ropes = buffersOf(c, 'ropes', rr);
          const before = tf.memory().numTensors;
          const [cKv, kRope] = [latents, ropes].map(({ cache }) => toTensor(cache));
          const [newCkv, newKRope] = [latents, ropes].map(({ rows }, index) => makeTensor(rows, index));
          const places = tf.tensor2d([lengths, counts], [2, b], 'int32');
          // a read keeps a copy on the CPU, which the append makes stale
          if (latents.cache.values.length > 0) await cKv.data();

          const outputs = tf.engine().runKernel('MLACacheAppend', {
            ...{ cKv, kRope, newCkv, newKRope },
            lengths: places,
          }) as unknown as tf.Tensor[];

          expectEqual(outputs.length, 0, 'outputs');
          expectSameBits('cKv', await cKv.data(), expectedOf(c, latents, r));
          if (rr > 0) expectSameBits('kRope', await kRope.data(), expectedOf(c, ropes, rr));
          expectSameBits('new rows', await newCkv.data(), latents.rows.values);
          tf.dispose([cKv, kRope, newCkv, newKRope, places]);
          expectEqual(tf.memory().numTensors, before, 'tensors left');
        });
      }
    }
  });
});
