/** Our gradients through each of tfjs's ways to ask for them: right, bit-equal over repeats, and nothing left behind. */
import * as tf from '@tensorflow/tfjs-core';
import { mlaAttention } from '../src/index.js';
import { attentionCases, decodeCases } from './cases.js';
import type { AttentionCase, Case } from './cases.js';
import { answersOf } from './support/answers.js';
import { expectClose, expectSameBits, gradientBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { differentiable, lossOf, runOp } from './support/losses.js';
import { itForEach, read, toTensors } from './support/onDevice.js';

const names = ['deepseek, rope apart', 'grouped heads 8 on 2', 'padded batch', 'ragged tiles'];
const decodeNames = ['four tokens, ragged', 'deepseek, four tokens', 'no rope'];
const chosen: Case[] = [
  ...attentionCases.filter(({ name }) => names.includes(name)),
  ...decodeCases.filter(({ name }) => decodeNames.includes(name)),
];

function attentionCase(name: string): AttentionCase {
  const found = attentionCases.find((c) => c.name === name);
  if (!found) throw new Error(`no case '${name}'`);
  return found;
}

async function expectGradients(c: Case, gradients: tf.Tensor[]): Promise<void> {
  const { tensors } = answersOf(c);
  for (const [index, name] of differentiable(c).gradients.entries()) {
    expectClose(name, await read(gradients[index]), tensors[name], gradientBounds);
  }
}

/** Runs a test on a case's inputs and fails if tensors are left. */
async function withInputs(c: Case, test: (inputs: tf.Tensor[]) => Promise<void>): Promise<void> {
  const before = tf.memory().numTensors;
  const inputs = toTensors(answersOf(c).tensors, differentiable(c).inputs);
  await test(inputs);
  tf.dispose(inputs);
  expectEqual(tf.memory().numTensors, before, 'tensors left');
}

describe('gradients', () => {
  it('are taken of cases that exist', () => {
    expectEqual(chosen.length, names.length + decodeNames.length);
  });

  onEachDevice((device) => {
    describe('tf.grads, three times', () => {
      itForEach(chosen, device, (c) =>
        withInputs(c, async (inputs) => {
          const { tensors } = answersOf(c);
          const bits: tf.TypedArray[][] = [];
          for (let repeat = 0; repeat < 3; repeat++) {
            const gradients = tf.grads((...given) => lossOf(c, tensors, given))(inputs);
            await expectGradients(c, gradients);
            bits.push(await Promise.all(gradients.map((gradient) => gradient.data())));
            tf.dispose(gradients);
          }
          bits[0].forEach((first, index) => {
            expectSameBits(`${differentiable(c).gradients[index]}, second time`, bits[1][index], first);
            expectSameBits(`${differentiable(c).gradients[index]}, third time`, bits[2][index], first);
          });
        }),
      );
    });

    const c = attentionCase('deepseek, rope apart');
    const { layout } = c;

    it('tf.grads with a dy, without lse', () =>
      withInputs(c, async (inputs) => {
        const [dOut] = toTensors(answersOf(c).tensors, ['dOut']);
        const forward = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, kRope: tf.Tensor): tf.Tensor =>
          mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {
            layout,
            causal: true,
            kRope: kRope as tf.Tensor3D,
          });
        const gradients = tf.grads(forward)(inputs, dOut);
        await expectGradients(c, gradients);
        tf.dispose([dOut, ...gradients]);
      }));

    it('tf.grad of one input alone', () =>
      withInputs(c, async ([q, k, v, kRope]) => {
        const { tensors } = answersOf(c);
        const dV = tf.grad((x) => lossOf(c, tensors, [q, k, x, kRope]))(v);
        expectClose('dV', await read(dV), tensors.dV, gradientBounds);
        dV.dispose();
      }));

    it('tf.valueAndGrads', () =>
      withInputs(c, async (inputs) => {
        const { tensors } = answersOf(c);
        const { value, grads } = tf.valueAndGrads((...given) => lossOf(c, tensors, given))(inputs);
        const { out, dOut } = tensors;
        const expected = Array.from(out.values).reduce((sum, x, index) => sum + x * dOut.values[index], 0);
        expectClose('value', await read(value), { shape: [], values: [expected] }, gradientBounds);
        await expectGradients(c, grads);
        tf.dispose([value, ...grads]);
      }));

    it('tf.variableGrads, as an optimiser asks for them', () =>
      withInputs(c, async (inputs) => {
        const { tensors } = answersOf(c);
        const variables = inputs.map((input, index) => tf.variable(input, true, `${device.name} ${index}`));
        const { value, grads } = tf.variableGrads(() => lossOf(c, tensors, variables));
        await expectGradients(
          c,
          variables.map(({ name }) => grads[name]),
        );
        tf.dispose([value, ...Object.values(grads), ...variables]);
      }));

    it('through tf.customGrad before the op', () =>
      withInputs(c, async ([q, k, v, kRope]) => {
        const { tensors } = answersOf(c);
        const doubled = tf.customGrad((x) => ({
          value: tf.clone(x as tf.Tensor),
          gradFunc: (dy: tf.Tensor) => tf.mul(dy, 2),
        }));
        const gradient = tf.grad((x) => lossOf(c, tensors, [doubled(x), k, v, kRope]))(q);
        const expected = { shape: tensors.dQ.shape, values: tensors.dQ.values.map((x) => 2 * x) };
        expectClose('2 dQ', await read(gradient), expected, gradientBounds);
        gradient.dispose();
      }));

    it('not, inside tf.customGrad: the outer gradient counts', () =>
      withInputs(c, async ([q, k, v, kRope]) => {
        const { tensors } = answersOf(c);
        const own = tf.customGrad((x) => ({
          value: runOp(c, [x as tf.Tensor, k, v, kRope]).out,
          gradFunc: (dy: tf.Tensor) => tf.mul(tf.onesLike(q), tf.sum(dy)),
        }));
        const gradient = tf.grad((given) => own(given))(q);
        expectSameBits(
          'gradient',
          await gradient.data(),
          new Float32Array(q.size).fill(tensors.out.values.length),
        );
        gradient.dispose();
      }));

    it('of a chain, under tf.tidy', () =>
      withInputs(c, async ([q, k, v, kRope]) => {
        const { tensors } = answersOf(c);
        const inTidy = tf.tidy(() => {
          const half = tf.mul(q, 0.5);
          return tf.grad((x) => tf.mul(lossOf(c, tensors, [tf.mul(x, 2), k, v, kRope]), 3))(half);
        });
        const expected = { shape: tensors.dQ.shape, values: tensors.dQ.values.map((x) => 6 * x) };
        expectClose('6 dQ', await read(inTidy), expected, gradientBounds);
        inTidy.dispose();
      }));

    it('of an input that is used twice', () =>
      withInputs(attentionCase('top left, square'), async () => {
        const x = tf.randomNormal<tf.Rank.R4>([1, 6, 2, 8], 0, 1, 'float32', 7);
        const dy = tf.randomNormal([1, 6, 2, 8], 0, 1, 'float32', 8);
        const attend = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): tf.Tensor =>
          mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D);
        const copies = [x, x, x].map((same) => tf.clone(same));
        const [dQ, dK, dV] = tf.grads(attend)(copies, dy);
        const dX = tf.grad((same) => attend(same, same, same))(x, dy);
        const sum = tf.tidy(() => tf.add(tf.add(dQ, dK), dV));
        expectClose('dX', await read(dX), await read(sum), gradientBounds);
        tf.dispose([...copies, x, dy, dQ, dK, dV, dX, sum]);
      }));

    it('leave one tensor of a forward without lse', () => {
      const before = tf.memory().numTensors;
      const out = tf.tidy(() =>
        mlaAttention(tf.ones([1, 3, 1, 4]), tf.ones([1, 3, 1, 4]), tf.ones([1, 3, 1, 4])),
      );
      expectEqual(tf.memory().numTensors, before + 1);
      out.dispose();
      expectTrue(tf.memory().numTensors === before, 'out was not the only tensor');
    });
  });
});
