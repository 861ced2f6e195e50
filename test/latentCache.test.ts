/** The cache as a caller sees it: in place, at a cost that does not grow, and read by mlaDecode as it is. */
import * as tf from '@tensorflow/tfjs-core';
import { LatentCache, mlaDecode } from '../src/index.js';
import '../src/webgpu.js';
import { expectClose, expectSameBits, forwardBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { read } from './support/onDevice.js';

function rows(batch: number, n: number, columns: number, seed: number): tf.Tensor3D {
  return tf.randomNormal<tf.Rank.R3>([batch, n, columns], 0, 1, 'float32', seed);
}

function tenRowCache(): LatentCache {
  return new LatentCache({ batch: 2, capacity: 10, latentRank: 16, ropeDim: 8 });
}

describe('LatentCache', () => {
  onEachDevice((device) => {
    it('keeps its buffers: appends change neither dataId nor bytes nor tensors', async () => {
      const cache = tenRowCache();
      const [cKv, kRope] = [rows(2, 3, 16, 1), rows(2, 3, 8, 2)];
      cache.append(cKv, kRope);
      const ids = [cache.cKv.dataId, cache.kRope.dataId];
      const { numTensors, numBytes } = tf.memory();
      cache.append(cKv, kRope, [1, 3]);
      cache.append(cKv, kRope, [2, 0]);
      expectTrue(
        cache.cKv.dataId === ids[0] && cache.kRope.dataId === ids[1],
        'the cache moved to other buffers',
      );
      expectEqual(
        [tf.memory().numTensors, tf.memory().numBytes],
        [numTensors, numBytes],
        'tensors and bytes',
      );
      expectEqual(cache.lengths, [6, 6]);
      expectEqual(cache.bytes, 4 * 2 * 10 * (16 + 8));

      const flat = tf.reshape(cKv, [6, 16]);
      const added = (await flat.array()) as number[][];
      flat.dispose();
      const held = await cache.cKv.array();
      const [first, second] = [added.slice(0, 3), added.slice(3)];
      expectEqual(held[0].slice(0, 6), [...first, first[0], ...first.slice(0, 2)], 'rows of batch entry 0');
      expectEqual(held[1].slice(0, 6), [...second, ...second], 'rows of batch entry 1');
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('shows rows that were added after a read', async () => {
      const cache = tenRowCache();
      await cache.cKv.data();
      const [cKv, kRope] = [rows(2, 1, 16, 3), rows(2, 1, 8, 4)];
      cache.append(cKv, kRope);
      const [held, added] = [await cache.cKv.data(), await cKv.data()];
      expectSameBits('first row', held.slice(0, 16), added.slice(0, 16));
      await cache.kRope.data();
      cache.append(cKv, kRope);
      const ropes = await cache.kRope.data();
      expectSameBits('second row', ropes.slice(8, 16), (await kRope.data()).slice(0, 8));
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('appends at a cost that does not depend on the capacity', async () => {
      const [cKv, kRope] = [rows(1, 1, 64, 5), rows(1, 1, 16, 6)];
      const costs = [];
      for (const capacity of [64, 64 * 64]) {
        const cache = new LatentCache({ batch: 1, capacity, latentRank: 64, ropeDim: 16 });
        cache.append(cKv, kRope);
        const { kernels, peakBytes, newBytes, result } = await tf.profile(() => {
          cache.append(cKv, kRope);
          return tf.scalar(0);
        });
        tf.dispose(result);
        const ran = kernels.map(({ name, bytesAdded, outputShapes }) => ({ name, bytesAdded, outputShapes }));
        costs.push({ ran, newBytes, peakBytes: peakBytes - cache.bytes });
        cache.dispose();
      }
      expectEqual(costs[1], costs[0], 'kernels, bytes and peak at 64 times the capacity');
      expectEqual(costs[0].ran, [{ name: 'MLACacheAppend', bytesAdded: 0, outputShapes: [] }]);
      tf.dispose([cKv, kRope]);
    });

    it('holds what mlaDecode reads: the same as from tensors of just the rows', async () => {
      const cache = tenRowCache();
      const [cKv, kRope] = [rows(2, 5, 16, 7), rows(2, 5, 8, 8)];
      cache.append(cKv, kRope, [5, 4]);
      const qLatent = tf.randomNormal<tf.Rank.R4>([2, 2, 3, 16], 0, 1, 'float32', 9);
      const qRope = tf.randomNormal<tf.Rank.R4>([2, 2, 3, 8], 0, 1, 'float32', 10);
      const options = { softmaxScale: 0.2, kvLengths: cache.lengths };
      const fromCache = mlaDecode(qLatent, qRope, cache.cKv, cache.kRope, options);
      const fromRows = mlaDecode(qLatent, qRope, cKv, kRope, options);
      expectClose('out', await read(fromCache), await read(fromRows), forwardBounds);
      cache.dispose();
      tf.dispose([cKv, kRope, qLatent, qRope, fromCache, fromRows]);
    });

    it('truncates, and writes over what it forgot', async () => {
      const cache = tenRowCache();
      const [cKv, kRope] = [rows(2, 4, 16, 11), rows(2, 4, 8, 12)];
      cache.append(cKv, kRope);
      cache.truncate([1, 4]);
      expectEqual(cache.lengths, [1, 4]);
      cache.append(cKv, kRope, [2, 0]);
      expectEqual(cache.lengths, [3, 4]);
      const [held, added] = [await cache.cKv.data(), await cKv.data()];
      expectSameBits('row 1', held.slice(16, 32), added.slice(0, 16));
      expectSameBits('row 3, as before', held.slice(48, 64), added.slice(48, 64));
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('writes nothing when the rows do not fit one of the batch entries', async () => {
      const cache = tenRowCache();
      const [cKv, kRope] = [rows(2, 6, 16, 13), rows(2, 6, 8, 14)];
      cache.append(cKv, kRope, [3, 6]);
      const before = await cache.cKv.data();
      let message = '';
      try {
        cache.append(cKv, kRope, [3, 5]);
      } catch (error) {
        message = (error as Error).message;
      }
      expectEqual(
        message,
        'LatentCache.append: batch entry 1 holds 6 of capacity=10 rows, 5 more do not fit',
      );
      expectEqual(cache.lengths, [3, 6]);
      expectSameBits('cKv', await cache.cKv.data(), before);
      cache.append(cKv, kRope, [3, 4]);
      expectEqual(cache.lengths, [6, 10]);
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('has no rope part where the model has none', async () => {
      const cache = new LatentCache({ batch: 1, capacity: 4, latentRank: 8, ropeDim: 0 });
      const [cKv, kRope] = [rows(1, 2, 8, 15), tf.zeros<tf.Rank.R3>([1, 2, 0])];
      cache.append(cKv, kRope);
      expectEqual([cache.lengths, cache.bytes, cache.kRope.shape], [[2], 128, [1, 4, 0]]);
      expectSameBits('rows', (await cache.cKv.data()).slice(0, 16), await cKv.data());
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('outlives tf.tidy, and leaves nothing once disposed', () => {
      const before = tf.memory().numTensors;
      const cache = tf.tidy(() => ({ cache: tenRowCache() }) as unknown as tf.TensorContainer) as unknown as {
        cache: LatentCache;
      };
      tf.tidy(() => cache.cache.append(tf.ones([2, 1, 16]), tf.ones([2, 1, 8])));
      expectEqual(cache.cache.cKv.isDisposed, false);
      cache.cache.dispose();
      cache.cache.dispose();
      expectEqual(tf.memory().numTensors, before, 'tensors left');
    });

    it('takes 500 decode steps without growing', async function () {
      this.timeout(120_000);
      const cache = new LatentCache({ batch: 1, capacity: 512, latentRank: 16, ropeDim: 4 });
      const step = async (isRead: boolean): Promise<void> => {
        const out = tf.tidy(() => {
          cache.append(tf.ones([1, 1, 16]), tf.ones([1, 1, 4]));
          return mlaDecode(tf.ones([1, 1, 2, 16]), tf.ones([1, 1, 2, 4]), cache.cKv, cache.kRope, {
            softmaxScale: 0.1,
            kvLengths: cache.lengths,
          });
        });
        if (isRead) await out.data();
        out.dispose();
      };
      const bytesInGpu = (): number => (tf.memory() as { numBytesInGPU?: number }).numBytesInGPU ?? 0;
      const samples: [numTensors: number, bytesInGpu: number][] = [];
      for (let done = 1; done <= 500; done++) {
        await step(done % 10 === 0);
        if (done % 100 === 0) samples.push([tf.memory().numTensors, bytesInGpu()]);
      }
      const [first] = samples;
      for (const sample of samples) expectEqual(sample, first, `tensors and bytes on ${device.name}`);
      cache.dispose();
    });
  });
});
