/** Threads on tfjs's shared memory; where it is not shared, startThreads says that there is one. */
import * as tf from '@tensorflow/tfjs-core';
import { explain } from '../src/index.js';
import { startThreads, stopThreads } from '../src/wasm.js';
import { attentionCases, decodeCases } from './cases.js';
import type { Case } from './cases.js';
import { answersOf, signatures } from './support/answers.js';
import type { ComparedKernel } from './support/answers.js';
import { expectSameBits } from './support/compare.js';
import { onEachDevice, threadsInIsolation } from './support/devices.js';
import { expectEqual, expectRejects } from './support/expect.js';
import { toTensors } from './support/onDevice.js';

const named = (cases: Case[], ...names: string[]): Case[] => cases.filter(({ name }) => names.includes(name));

/** Many units of work, fewer than there are threads, and none. */
const cases = [
  ...named(attentionCases, 'long 769', 'grouped 257 on 385', 'one row, one key', 'no rows'),
  ...named(decodeCases, '100 rows', '128 heads', 'no keys'),
];

function kernelsOf({ op }: Case): ComparedKernel[] {
  return op === 'mlaDecode'
    ? ['MLADecode', 'MLADelta', 'MLADecodeDq', 'MLADecodeDkv']
    : ['MLAAttention', 'MLADelta', 'MLAAttentionDq', 'MLAAttentionDkv'];
}

function threads(): number {
  return explain('mlaAttention', { q: [1, 1, 1, 8], k: [1, 1, 1, 8], v: [1, 1, 1, 8] }).tile.THREADS;
}

/** All numbers that a kernel gives. */
async function outputsOf(kernel: ComparedKernel, c: Case): Promise<tf.TypedArray[]> {
  const { problem, tensors } = answersOf(c);
  const names = signatures[kernel].inputs;
  const inputs = toTensors(tensors, names);
  const byName = Object.fromEntries(names.map((name, index) => [name, inputs[index]]));
  const outputs = [tf.engine().runKernel<tf.Tensor | tf.Tensor[]>(kernel, byName, problem)].flat();
  const values = await Promise.all(outputs.map((output) => output.data()));
  tf.dispose([...inputs, ...outputs]);
  return values;
}

describe('threads', () => {
  onEachDevice((device) => {
    if (device.backend !== 'wasm') return;
    const isIsolated = globalThis.crossOriginIsolated === true;
    after(() => device.setUp());

    it('are as many as were asked for where memory is shared, else one', async () => {
      expectEqual(await startThreads(2), isIsolated ? 2 : 1);
      expectEqual(threads(), isIsolated ? 2 : 1);
      await stopThreads();
      expectEqual(threads(), 1);
      expectEqual(await startThreads(threadsInIsolation), isIsolated ? threadsInIsolation : 1);
    });

    it('refuses a number of threads that is none', async () => {
      for (const count of [0, -1, 1.5, NaN]) {
        const message = `startThreads: count must be a positive integer, got ${count}`;
        await expectRejects(() => startThreads(count), message);
      }
    });

    if (!isIsolated) {
      it.skip('the same bits on several: needs shared memory, runs in the isolated page');
      return;
    }

    it('that were started anew have scratch of their own', async () => {
      const [small, large] = [
        named(attentionCases, 'grouped 257 on 385'),
        named(attentionCases, 'long 769'),
      ].flat();
      await stopThreads();
      const [alone] = await outputsOf('MLAAttention', large);
      // one kernel for each start: the first of both
      for (const c of [small, large, small, large]) {
        await startThreads(threadsInIsolation);
        const [out] = await outputsOf('MLAAttention', c);
        if (c === large) expectSameBits('out', out, alone);
        await stopThreads();
      }
    });

    for (const c of cases) {
      for (const kernel of kernelsOf(c)) {
        it(`give the same bits as one: ${kernel}, ${c.name}`, async () => {
          await stopThreads();
          const alone = await outputsOf(kernel, c);
          await startThreads(threadsInIsolation);
          for (let repeat = 0; repeat < 5; repeat++) {
            for (const [index, values] of (await outputsOf(kernel, c)).entries()) {
              expectSameBits(`output ${index}`, values, alone[index]);
            }
          }
        });
      }
    }
  });
});
