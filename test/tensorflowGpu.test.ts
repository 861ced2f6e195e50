/** What is peculiar to TensorFlow on a GPU: the stream that our kernels run in, memory that is used again, placement. */
import { createRequire } from 'node:module';
import * as tf from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from '../kernels/tensorflow/index.js';
import { nativeLibrary } from '../kernels/tensorflow/native.js';
import { LatentCache, mlaAttention } from '../src/index.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { isTensorflowProcess } from './support/tensorflow.js';

/** As in kernels/tensorflow/gpu.h. */
const streams = { tensorflow: 0, andWait: 1, ourOwn: 2, null: 3 };
const delayUs = 300;
const turns = 60;

interface Counts {
  calls: number;
  waits: number;
}
interface TestAddon {
  testStream: (stream: number, delayUs: number) => Counts;
}

function addonOf(): TestAddon {
  return createRequire(import.meta.url)(nativeLibrary() ?? '') as TestAddon;
}

/** Runs with the kernels in another stream, each after a delay; afterwards nothing is under way in any. */
async function inStream<T>(stream: number, delay: number, run: () => Promise<T>): Promise<T> {
  const { testStream } = addonOf();
  testStream(stream, delay);
  try {
    return await run();
  } finally {
    testStream(streams.andWait, 0);
    const one = tf.ones<tf.Rank.R4>([1, 1, 1, 8]);
    tf.dispose([mlaAttention(one, one, one), one]);
    testStream(streams.tensorflow, 0);
  }
}

/** A row that sees one key is that key's value. */
function valueOf(v: tf.Tensor4D): tf.Tensor4D {
  return mlaAttention(v, v, v);
}

/**
 * The largest error after many turns in which an input's memory is freed and taken by another op right after the call, and
 * the output is read by another op at once. Nothing waits for the GPU until the end.
 */
async function race(): Promise<number> {
  const a = tf.randomUniform<tf.Rank.R4>([4096, 1, 4, 64], 1, 2);
  let worst = tf.scalar(0);
  for (let turn = 1; turn <= turns; turn++) {
    const error = tf.tidy(() => {
      const v = tf.mul<tf.Tensor4D>(a, turn);
      const out = valueOf(v);
      v.dispose();
      const takesItsMemory = tf.mul(a, -turn);
      const got = tf.add(out, 1);
      out.dispose();
      takesItsMemory.dispose();
      const difference = tf.sub(got, tf.add(tf.mul(a, turn), 1));
      return tf.maximum(worst, tf.max(tf.abs(difference)));
    });
    worst.dispose();
    worst = error as tf.Scalar;
  }
  const [largest] = await worst.data();
  tf.dispose([a, worst]);
  return largest;
}

describe('tensorflow on a GPU', () => {
  if (!isTensorflowProcess) {
    it.skip('tensorflow on a GPU: runs in npm run mocha:tensorflow');
    return;
  }
  onEachDevice(() => {
    before(function () {
      if (!(tf.backend() as TensorflowBackend).isUsingGpuDevice) {
        console.log('        tensorflow on a GPU: skipped: this TensorFlow uses none');
        this.skip();
      }
    });

    it("runs in TensorFlow's own stream, and waits for nothing", async () => {
      const { testStream } = addonOf();
      const x = tf.ones<tf.Rank.R4>([2, 5, 2, 16]);
      const before = testStream(streams.tensorflow, 0);
      const out = mlaAttention(x, x, x, { causal: true });
      const after = testStream(streams.tensorflow, 0);
      expectEqual([after.calls - before.calls, after.waits - before.waits], [1, 0], 'calls, waits');
      expectTrue(
        (await out.data()).every((value) => Math.abs(value - 1) < 1e-3),
        'expected ones',
      );
      tf.dispose([x, out]);
    });

    it('waits for the device where it is told to, with the same bits', async () => {
      const { testStream } = addonOf();
      const x = tf.randomNormal<tf.Rank.R4>([2, 70, 2, 64]);
      const attend = async (): Promise<number[]> => {
        const out = mlaAttention(x, x, x, { causal: true });
        const values = await out.data();
        out.dispose();
        return [...values];
      };
      const values = await attend();
      const { waits } = testStream(streams.tensorflow, 0);
      const [again, counts] = await inStream(streams.andWait, 0, async () => [
        await attend(),
        testStream(streams.andWait, 0),
      ]);
      expectEqual(counts.waits - waits, 1, 'waits');
      expectEqual(again, values);
      x.dispose();
    });

    for (const [name, stream] of Object.entries(streams)) {
      const isRight = stream === streams.tensorflow || stream === streams.andWait;
      it(`race, delayed, stream ${name}: ${isRight ? 'right' : 'wrong, as it must be'}`, async () => {
        const error = await inStream(stream, delayUs, race);
        // what a kernel that came too early has read may be anything, NaN too
        expectTrue(
          isRight ? error < 0.1 : !(error <= 0.5),
          `expected ${isRight ? 'the values' : 'other values'}, got an error of ${error}`,
        );
      }).timeout(120_000);
    }

    it('race, not delayed', async () => expectTrue((await race()) < 0.1, 'expected the values')).timeout(
      120_000,
    );

    it('appends to a cache in place, in the order of the calls', async () => {
      const cache = new LatentCache({ batch: 2, capacity: 64, latentRank: 32, ropeDim: 16 });
      const id = cache.cKv.dataId;
      await inStream(streams.tensorflow, delayUs, async () => {
        for (let n = 1; n <= 64; n++) {
          const rows = tf.fill<tf.Rank.R3>([2, 1, 32], n);
          const ropes = tf.fill<tf.Rank.R3>([2, 1, 16], -n);
          cache.append(rows, ropes);
          tf.dispose([rows, ropes, tf.zeros([2, 1, 32])]);
        }
      });
      expectTrue(cache.cKv.dataId === id, 'the cache moved to another buffer');
      const expected = (columns: number, sign: number): number[] =>
        Array.from(
          { length: 2 * 64 * columns },
          (_, index) => sign * ((Math.floor(index / columns) % 64) + 1),
        );
      expectEqual([...(await cache.cKv.data())], expected(32, 1), 'cKv');
      expectEqual([...(await cache.kRope.data())], expected(16, -1), 'kRope');
      cache.dispose();
    });

    it('launches nothing for tensors without elements', async () => {
      const none = tf.zeros<tf.Rank.R4>([0, 3, 2, 16]);
      expectEqual(mlaAttention(none, none, none).shape, [0, 3, 2, 16]);
      const q = tf.ones<tf.Rank.R4>([1, 3, 2, 16]);
      const noKeys = tf.zeros<tf.Rank.R4>([1, 0, 2, 16]);
      const out = mlaAttention(q, noKeys, noKeys);
      expectTrue(
        (await out.data()).every((value) => value === 0),
        'expected zeros where there are no keys',
      );
      tf.dispose([none, q, noKeys, out]);
    });

    it('says that there is no memory, and goes on', async () => {
      const v = tf.ones<tf.Rank.R4>([64, 16384, 8, 64]);
      const one = tf.ones<tf.Rank.R4>([64, 1, 8, 64]);
      const held: tf.Tensor[] = [];
      let message = 'none';
      try {
        while (held.length < 200) held.push(mlaAttention(v, one, one));
      } catch (error) {
        ({ message } = error as Error);
      }
      tf.dispose([...held, v]);
      expectTrue(/Status: 8|OOM/.test(message), `expected an error of memory, got: ${message}`);
      const out = valueOf(one);
      expectTrue(
        (await out.data()).every((value) => Math.abs(value - 1) < 1e-3),
        'expected ones afterwards',
      );
      tf.dispose([one, out]);
    }).timeout(120_000);
  });
});
