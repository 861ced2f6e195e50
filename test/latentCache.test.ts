/** The cache as a caller sees it: in place, at a cost that does not grow, and read by mlaDecode as it is. */
import * as tf from '@tensorflow/tfjs-core';
import { unpackFloat16 } from '../src/core/float16.js';
import { LatentCache, mlaDecode } from '../src/index.js';
import type { CacheFormat } from '../src/index.js';
import '../src/webgpu.js';
import { expectClose, expectSameBits, forwardBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import type { Device } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { nearestFloat16 } from './support/float16.js';
import { read } from './support/onDevice.js';

function rows(batch: number, n: number, columns: number, seed: number): tf.Tensor3D {
  return tf.randomNormal<tf.Rank.R3>([batch, n, columns], 0, 1, 'float32', seed);
}

function tenRowCache(storage: CacheFormat): LatentCache {
  return new LatentCache({ batch: 2, capacity: 10, latentRank: 16, ropeDim: 8, storage });
}

/** The numbers that a cache's tensor holds, rows past the lengths included. */
async function held(tensor: tf.Tensor): Promise<Float32Array> {
  const words = await tensor.data();
  return words instanceof Int32Array ? unpackFloat16(words) : (words as Float32Array);
}

/** Numbers as a cache keeps them. */
async function kept(storage: CacheFormat, rows: tf.Tensor): Promise<Float32Array> {
  const numbers = await rows.data<'float32'>();
  return storage === 'float16' ? numbers.map(nearestFloat16) : numbers;
}

function onEachStorage(define: (device: Device, storage: CacheFormat) => void): void {
  onEachDevice((device) => {
    const storages: CacheFormat[] = device.backend === 'tensorflow' ? ['float32'] : ['float32', 'float16'];
    for (const storage of storages) describe(storage, () => define(device, storage));
  });
}

describe('LatentCache', () => {
  onEachStorage((device, storage) => {
    it('keeps its buffers: appends change neither dataId nor bytes nor tensors', async () => {
      const cache = tenRowCache(storage);
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
      expectEqual(cache.bytes, (storage === 'float16' ? 2 : 4) * 2 * 10 * (16 + 8));

      const [numbers, added] = [await held(cache.cKv), await kept(storage, cKv)];
      const row = (of: Float32Array, index: number): number[] => [
        ...of.subarray(16 * index, 16 * index + 16),
      ];
      const rowsHeld = Array.from({ length: 20 }, (_, index) => row(numbers, index));
      const [a, b, c, d, e, f] = Array.from({ length: 6 }, (_, index) => row(added, index));
      expectEqual(rowsHeld.slice(0, 6), [a, b, c, a, a, b], 'rows of batch entry 0');
      expectEqual(rowsHeld.slice(10, 16), [d, e, f, d, e, f], 'rows of batch entry 1');
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('shows rows that were added after a read', async () => {
      const cache = tenRowCache(storage);
      await cache.cKv.data();
      const [cKv, kRope] = [rows(2, 1, 16, 3), rows(2, 1, 8, 4)];
      cache.append(cKv, kRope);
      const [numbers, added] = [await held(cache.cKv), await kept(storage, cKv)];
      expectSameBits('first row', numbers.slice(0, 16), added.slice(0, 16));
      await cache.kRope.data();
      cache.append(cKv, kRope);
      const ropes = await held(cache.kRope);
      expectSameBits('second row', ropes.slice(8, 16), (await kept(storage, kRope)).slice(0, 8));
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('appends at a cost that does not depend on the capacity', async () => {
      const [cKv, kRope] = [rows(1, 1, 64, 5), rows(1, 1, 16, 6)];
      const costs = [];
      for (const capacity of [64, 64 * 64]) {
        const cache = new LatentCache({ batch: 1, capacity, latentRank: 64, ropeDim: 16, storage });
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
      const cache = tenRowCache(storage);
      const [cKv, kRope] = [rows(2, 5, 16, 7), rows(2, 5, 8, 8)];
      cache.append(cKv, kRope, [5, 4]);
      const qLatent = tf.randomNormal<tf.Rank.R4>([2, 2, 3, 16], 0, 1, 'float32', 9);
      const qRope = tf.randomNormal<tf.Rank.R4>([2, 2, 3, 8], 0, 1, 'float32', 10);
      const options = { softmaxScale: 0.2, kvLengths: cache.lengths };
      const fromCache = mlaDecode(qLatent, qRope, cache.cKv, cache.kRope, options);
      const [keptCkv, keptKRope] = [
        tf.tensor3d(await kept(storage, cKv), [2, 5, 16]),
        tf.tensor3d(await kept(storage, kRope), [2, 5, 8]),
      ];
      const fromRows = mlaDecode(qLatent, qRope, keptCkv, keptKRope, options);
      expectClose('out', await read(fromCache), await read(fromRows), forwardBounds);
      cache.dispose();
      tf.dispose([cKv, kRope, keptCkv, keptKRope, qLatent, qRope, fromCache, fromRows]);
    });

    it('truncates, and writes over what it forgot', async () => {
      const cache = tenRowCache(storage);
      const [cKv, kRope] = [rows(2, 4, 16, 11), rows(2, 4, 8, 12)];
      cache.append(cKv, kRope);
      cache.truncate([1, 4]);
      expectEqual(cache.lengths, [1, 4]);
      cache.append(cKv, kRope, [2, 0]);
      expectEqual(cache.lengths, [3, 4]);
      const [numbers, added] = [await held(cache.cKv), await kept(storage, cKv)];
      expectSameBits('row 1', numbers.slice(16, 32), added.slice(0, 16));
      expectSameBits('row 3, as before', numbers.slice(48, 64), added.slice(48, 64));
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('writes nothing when the rows do not fit one of the batch entries', async () => {
      const cache = tenRowCache(storage);
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
      const cache = new LatentCache({ batch: 1, capacity: 4, latentRank: 8, ropeDim: 0, storage });
      const [cKv, kRope] = [rows(1, 2, 8, 15), tf.zeros<tf.Rank.R3>([1, 2, 0])];
      cache.append(cKv, kRope);
      const bytes = storage === 'float16' ? 64 : 128;
      expectEqual([cache.lengths, cache.bytes, cache.kRope.shape], [[2], bytes, [1, 4, 0]]);
      expectSameBits('rows', (await held(cache.cKv)).slice(0, 16), await kept(storage, cKv));
      cache.dispose();
      tf.dispose([cKv, kRope]);
    });

    it('outlives tf.tidy, and leaves nothing once disposed', () => {
      const before = tf.memory().numTensors;
      const cache = tf.tidy(
        () => ({ cache: tenRowCache(storage) }) as unknown as tf.TensorContainer,
      ) as unknown as {
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
      const cache = new LatentCache({ batch: 1, capacity: 512, latentRank: 16, ropeDim: 4, storage });
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
