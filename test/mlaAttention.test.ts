import * as tf from '@tensorflow/tfjs-core';
import { mlaAttention } from '../src/index.js';
import { attentionCases } from './cases.js';
import { answersOf } from './support/answers.js';
import { expectClose, expectSameBits, forwardBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual } from './support/expect.js';
import { testKernel } from './support/kernelTest.js';
import { runOp } from './support/losses.js';
import { itForEach, read, toTensors } from './support/onDevice.js';

testKernel('MLAAttention');

const names = ['deepseek, rope apart', 'padded batch', 'ragged window', 'negative scale', 'no keys'];
const chosen = attentionCases.filter(({ name }) => names.includes(name));

describe('mlaAttention', () => {
  onEachDevice((device) => {
    describe('agrees with the reference', () => {
      itForEach(chosen, device, async (c) => {
        const { tensors } = answersOf(c);
        const before = tf.memory().numTensors;
        const inputs = toTensors(tensors, c.dr > 0 ? ['q', 'k', 'v', 'kRope'] : ['q', 'k', 'v']);
        const { out, lse } = runOp(c, inputs);
        expectClose('out', await read(out), tensors.out, forwardBounds);
        expectClose('lse', await read(lse), tensors.lse, forwardBounds);
        tf.dispose([out, lse, ...inputs]);
        expectEqual(tf.memory().numTensors, before, 'tensors left');
      });
    });

    it('takes nested arrays, and knows the values by hand', async () => {
      const { out, lse } = mlaAttention([[[[1, 0]]]], [[[[1, 2]], [[3, 4]]]], [[[[10]], [[20]]]], {
        softmaxScale: 1,
        returnLse: true,
      });
      // scores 1 and 3
      const share = 1 / (1 + Math.exp(-2));
      const expected = { shape: [1, 1, 1, 1], values: [10 * (1 - share) + 20 * share] };
      expectClose('out', await read(out), expected, forwardBounds);
      const logarithm = { shape: [1, 1, 1], values: [3 + Math.log(1 + Math.exp(-2))] };
      expectClose('lse', await read(lse), logarithm, forwardBounds);
      tf.dispose([out, lse]);
    });

    it('scales by 1/sqrt(dqk), kRope included, unless told', async () => {
      const [q, k, v] = [
        tf.randomNormal([1, 2, 1, 16], 0, 1, 'float32', 1),
        tf.ones([1, 3, 1, 12]),
        tf.ones([1, 3, 1, 4]),
      ];
      const kRope = tf.randomNormal<tf.Rank.R3>([1, 3, 4], 0, 1, 'float32', 2);
      const inputs = [q, k, v] as tf.Tensor4D[];
      const byDefault = mlaAttention(inputs[0], inputs[1], inputs[2], { kRope, returnLse: true });
      const told = mlaAttention(inputs[0], inputs[1], inputs[2], {
        kRope,
        softmaxScale: 0.25,
        returnLse: true,
      });
      expectSameBits('lse', await byDefault.lse.data(), await told.lse.data());
      tf.dispose([q, k, v, kRope, byDefault.out, byDefault.lse, told.out, told.lse]);
    });

    it('reads lengths from an int32 tensor, clamped to the shapes', async () => {
      const x = tf.randomNormal<tf.Rank.R4>([3, 5, 2, 8], 0, 1, 'float32', 3);
      const qLengths = tf.tensor1d([-4, 3, 99], 'int32');
      const kvLengths = tf.tensor1d([2, 2_000_000_000, -1], 'int32');
      const clamped = mlaAttention(x, x, x, { causal: true, qLengths, kvLengths, returnLse: true });
      const inRange = mlaAttention(x, x, x, {
        causal: true,
        qLengths: [0, 3, 5],
        kvLengths: [2, 5, 0],
        returnLse: true,
      });
      expectSameBits('out', await clamped.out.data(), await inRange.out.data());
      expectSameBits('lse', await clamped.lse.data(), await inRange.lse.data());
      tf.dispose([x, qLengths, kvLengths, clamped.out, clamped.lse, inRange.out, inRange.lse]);
    });

    it('reads integers that were cast to float32', async () => {
      const integers = tf.tensor4d([1, 2, 3, 4, 5, 6, 7, 8], [1, 4, 1, 2], 'int32');
      const cast = tf.cast(integers, 'float32');
      const floats = tf.tensor4d([1, 2, 3, 4, 5, 6, 7, 8], [1, 4, 1, 2]);
      const [fromCast, fromFloats] = [mlaAttention(cast, cast, cast), mlaAttention(floats, floats, floats)];
      expectClose('out', await read(fromCast), await read(fromFloats), forwardBounds);
      tf.dispose([integers, cast, floats, fromCast, fromFloats]);
    });

    it('gives the same in every layout', async () => {
      const [q, k, v] = [11, 12, 13].map((seed) =>
        tf.randomNormal<tf.Rank.R4>([2, 5, 3, 8], 0, 1, 'float32', seed),
      );
      const kvLengths = [5, 3];
      const plain = mlaAttention(q, k, v, { causal: 'top-left', kvLengths });
      const orders = { bhsd: [0, 2, 1, 3], sbhd: [1, 0, 2, 3] };
      for (const [layout, order] of Object.entries(orders)) {
        const back = layout === 'bhsd' ? order : [1, 0, 2, 3];
        const moved = tf.tidy(() => {
          const [q2, k2, v2] = [q, k, v].map((x) => tf.transpose(x, order));
          const out = mlaAttention(q2, k2, v2, {
            causal: 'top-left',
            kvLengths,
            layout: layout as 'bhsd' | 'sbhd',
          });
          return tf.transpose(out, back);
        });
        expectClose(layout, await read(moved), await read(plain), forwardBounds);
        moved.dispose();
      }
      tf.dispose([q, k, v, plain]);
    });
  });
});
