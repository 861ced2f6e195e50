/** The general entry: our kernels where they can, composed ops where they must, and the same numbers from both. */
import * as tf from '@tensorflow/tfjs-core';
import { dotProductAttention } from '../src/index.js';
import type { DotProductAttentionOptions } from '../src/index.js';
import { attentionCases } from './cases.js';
import { answersOf } from './support/answers.js';
import { expectClose, expectSameBits, forwardBounds, gradientBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { differentiable } from './support/losses.js';
import { allowSavedTensors, itForEach, read, toTensor, toTensors } from './support/onDevice.js';

const names = [
  'minicpm3, sbhd',
  'grouped heads 8 on 2',
  'padded, top left',
  'window both sides',
  'ragged keys',
];
const chosen = attentionCases.filter(({ name }) => names.includes(name));

const [b, hq, sq, skv] = [2, 4, 5, 7];

function inputs(): [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D] {
  const random = (shape: [number, number, number, number], seed: number): tf.Tensor4D =>
    tf.randomNormal<tf.Rank.R4>(shape, 0, 1, 'float32', seed);
  return [random([b, sq, hq, 8], 1), random([b, skv, 2, 8], 2), random([b, skv, 2, 6], 3)];
}

/** The same from tfjs's own ops, differentiated by tfjs; `extra` is added to the scores, `factor` multiplies p. */
function naive(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, extra: tf.Tensor, factor: tf.Tensor): tf.Tensor {
  const heads = (x: tf.Tensor): tf.Tensor => tf.transpose(x, [0, 2, 1, 3]);
  const copies = (x: tf.Tensor): tf.Tensor => {
    const [first, second] = tf.split(heads(x), 2, 1);
    return tf.concat([first, first, second, second], 1);
  };
  const scores = tf.div(tf.matMul(heads(q), copies(k), false, true), Math.sqrt(8));
  return heads(tf.matMul(tf.mul(tf.softmax(tf.add(scores, extra)), factor), copies(v)));
}

async function expectSameAsNaive(
  options: DotProductAttentionOptions,
  extra: tf.Tensor,
  factor: tf.Tensor = tf.scalar(1),
): Promise<void> {
  const qkv = inputs();
  const dOut = tf.randomNormal([b, sq, hq, 6], 0, 1, 'float32', 4);
  const out = dotProductAttention(...qkv, options);
  const expected = tf.tidy(() => naive(...qkv, extra, factor));
  expectClose('out', await read(out), await read(expected), forwardBounds);
  const run = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): tf.Tensor =>
    dotProductAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, options);
  const ours = tf.grads(run)(qkv, dOut);
  const theirs = tf.grads((q, k, v) => naive(q, k, v, extra, factor))(qkv, dOut);
  for (const [index, name] of ['dQ', 'dK', 'dV'].entries()) {
    expectClose(name, await read(ours[index]), await read(theirs[index]), gradientBounds);
  }
  tf.dispose([...qkv, dOut, out, expected, extra, factor, ...ours, ...theirs]);
}

async function kernelNamesOf(options: DotProductAttentionOptions): Promise<string[]> {
  const qkv = inputs();
  const { kernelNames, result } = await tf.profile(() => dotProductAttention(...qkv, options));
  tf.dispose([result, ...qkv]);
  return kernelNames;
}

describe('dotProductAttention', () => {
  allowSavedTensors();

  onEachDevice((device) => {
    describe('composed, against the reference', () => {
      itForEach(chosen, device, async (c) => {
        const { tensors } = answersOf(c);
        const before = tf.memory().numTensors;
        const { layout, causal, window, qLengths, kvLengths, softmaxScale } = c;
        const { inputs: inputNames, gradients } = differentiable(c);
        const run = (...[q, k, v, kRope]: tf.Tensor[]): tf.Tensor =>
          dotProductAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {
            ...{ layout, causal, window, qLengths, kvLengths, softmaxScale },
            kRope: kRope as tf.Tensor3D | undefined,
            implementation: 'composed',
          });
        const given = toTensors(tensors, inputNames);
        const out = run(...given);
        expectClose('out', await read(out), tensors.out, forwardBounds);
        tf.dispose(out);
        // the answers have the gradient of lse in them, which this op does not return
        if (!c.hasDLse) {
          const dOut = toTensor(tensors.dOut);
          const got = tf.grads(run)(given, dOut);
          for (const [index, name] of gradients.entries()) {
            expectClose(name, await read(got[index]), tensors[name], gradientBounds);
          }
          tf.dispose([dOut, ...got]);
        }
        tf.dispose(given);
        expectEqual(tf.memory().numTensors, before, 'tensors left');
      });
    });

    it('runs our kernel unless asked for more or told otherwise', async () => {
      expectTrue((await kernelNamesOf({})).includes('MLAAttention'), 'auto must run MLAAttention');
      expectTrue((await kernelNamesOf({ implementation: 'fused' })).includes('MLAAttention'), 'fused must');
      const composed = await kernelNamesOf({ implementation: 'composed' });
      expectTrue(!composed.includes('MLAAttention') && composed.includes('BatchMatMul'), 'composed must not');
      const bias = tf.zeros([sq, skv]);
      const withBias = await kernelNamesOf({ bias });
      expectTrue(!withBias.includes('MLAAttention'), 'a bias must run composed ops');
      bias.dispose();
    });

    it('keeps what the mask keeps', async () => {
      const mask = tf.tensor(
        [...Array(sq * skv).keys()].map((index) => (index % 3 === 0 ? 0 : 1)),
        [sq, skv],
        'bool',
      );
      const hidden = tf.tidy(() => tf.mul(tf.sub(1, tf.cast(mask, 'float32')), -1e9));
      await expectSameAsNaive({ mask }, hidden);
      mask.dispose();
    });

    it('gives 0 where the mask keeps nothing', async () => {
      const qkv = inputs();
      const mask = tf.tensor([0, 1, 1, 1, 1], [5, 1], 'bool');
      const out = dotProductAttention(...qkv, { mask });
      const values = await out.data();
      expectTrue(
        values.slice(0, hq * 6).every((value) => value === 0),
        'row 0 must be 0',
      );
      expectTrue(
        values.slice(hq * 6, 2 * hq * 6).every((value) => value !== 0),
        'row 1 must not be',
      );
      tf.dispose([...qkv, mask, out]);
    });

    it('adds the bias, whose gradient is summed over what was broadcast', async () => {
      const bias = tf.randomNormal([hq, 1, skv], 0, 1, 'float32', 5);
      await expectSameAsNaive({ bias }, tf.clone(bias));

      const qkv = inputs();
      const dOut = tf.randomNormal([b, sq, hq, 6], 0, 1, 'float32', 6);
      const ours = tf.grad((x) => dotProductAttention(...qkv, { bias: x }))(bias, dOut);
      const one = tf.scalar(1);
      const theirs = tf.grad((x) => naive(...qkv, x, one))(bias, dOut);
      expectClose('dBias', await read(ours), await read(theirs), gradientBounds);
      tf.dispose([bias, dOut, ours, one, theirs, ...qkv]);
    });

    it('drops out the same for the same seed, and its gradient knows what was dropped', async () => {
      const kept = tf.tidy(() => {
        const isKept = tf.greaterEqual(tf.randomUniform([b, hq, sq, skv], 0, 1, 'float32', 9), 0.4);
        return tf.div(tf.cast(isKept, 'float32'), 0.6);
      });
      await expectSameAsNaive({ dropout: 0.4, seed: 9 }, tf.scalar(0), kept);
    });

    it('drops out the share that was asked for', async () => {
      // all p are 1/128 and all values 1: out counts the survivors
      const [q, k, v] = [
        tf.zeros([1, 64, 1, 2]),
        tf.zeros([1, 128, 1, 2]),
        tf.ones([1, 128, 1, 1]),
      ] as tf.Tensor4D[];
      const out = dotProductAttention(q, k, v, { dropout: 0.25, seed: 3 });
      const values = await out.data();
      const mean = Array.from(values).reduce((sum, value) => sum + value, 0) / values.length;
      expectTrue(Math.abs(mean - 1) < 0.02, `expected a mean near 1, got ${mean}`);
      expectTrue(new Set(values).size > 5, 'every row must drop others');
      tf.dispose([q, k, v, out]);
    });

    it('without a seed drops others each time', async () => {
      const qkv = inputs();
      const [first, second] = [0, 1].map(() => dotProductAttention(...qkv, { dropout: 0.5 }));
      const [x, y] = [await first.data(), await second.data()];
      expectTrue(
        x.some((value, index) => value !== y[index]),
        'two calls gave the same',
      );
      tf.dispose([...qkv, first, second]);
    });

    it('is mlaAttention to the bit when nothing more is asked for', async () => {
      const qkv = inputs();
      const [auto, fused] = [
        dotProductAttention(...qkv),
        dotProductAttention(...qkv, { implementation: 'fused' }),
      ];
      expectSameBits('out', await auto.data(), await fused.data());
      tf.dispose([...qkv, auto, fused]);
    });
  });
});
