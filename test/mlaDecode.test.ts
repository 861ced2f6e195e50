import * as tf from '@tensorflow/tfjs-core';
import { mlaDecode } from '../src/index.js';
import { decodeCases } from './cases.js';
import { answersOf } from './support/answers.js';
import { expectClose, expectSameBits, forwardBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual } from './support/expect.js';
import { testKernel } from './support/kernelTest.js';
import { runOp } from './support/losses.js';
import { itForEach, read, toTensors } from './support/onDevice.js';

testKernel('MLADecode');

const inputNames = ['qLatent', 'qRope', 'cKv', 'kRope'];
const names = ['four tokens, ragged', 'two tokens, sbhd', 'no rope'];
const chosen = decodeCases.filter(({ name }) => names.includes(name));

describe('mlaDecode', () => {
  onEachDevice((device) => {
    describe('agrees with the reference', () => {
      itForEach(chosen, device, async (c) => {
        const { tensors } = answersOf(c);
        const before = tf.memory().numTensors;
        const inputs = toTensors(tensors, inputNames);
        const { out, lse } = runOp(c, inputs);
        expectClose('out', await read(out), tensors.out, forwardBounds);
        expectClose('lse', await read(lse), tensors.lse, forwardBounds);
        tf.dispose([out, lse, ...inputs]);
        expectEqual(tf.memory().numTensors, before, 'tensors left');
      });
    });

    it('is causal unless told otherwise', async () => {
      const [qLatent, qRope] = [
        [1, 4, 2, 16],
        [1, 4, 2, 8],
      ].map((shape) =>
        tf.randomNormal<tf.Rank.R4>(shape as [number, number, number, number], 0, 1, 'float32', 5),
      );
      const [cKv, kRope] = [16, 8].map((columns) =>
        tf.randomNormal<tf.Rank.R3>([1, 9, columns], 0, 1, 'float32', 6),
      );
      const run = (causal?: boolean): tf.Tensor =>
        mlaDecode(qLatent, qRope, cKv, kRope, { softmaxScale: 0.2, causal });
      const [byDefault, causal, full] = [run(), run(true), run(false)];
      expectSameBits('out', await byDefault.data(), await causal.data());
      const [first, seesAll] = [(await byDefault.data())[0], (await full.data())[0]];
      if (Math.abs(first - seesAll) < 1e-3)
        throw new Error(`row 0 must not see the last keys, got ${first} both times`);
      tf.dispose([qLatent, qRope, cKv, kRope, byDefault, causal, full]);
    });

    it('reads lengths from an int32 tensor, clamped to the cache', async () => {
      const [c] = decodeCases.filter(({ name }) => name === 'four tokens, ragged');
      const inputs = toTensors(answersOf(c).tensors, inputNames) as [
        tf.Tensor4D,
        tf.Tensor4D,
        tf.Tensor3D,
        tf.Tensor3D,
      ];
      const kvLengths = tf.tensor1d([-7, 1000, 17], 'int32');
      const numbers = [0, c.skv, 17];
      const clamped = mlaDecode(...inputs, { softmaxScale: 0.1, kvLengths });
      const inRange = mlaDecode(...inputs, { softmaxScale: 0.1, kvLengths: numbers });
      expectSameBits('out', await clamped.data(), await inRange.data());
      tf.dispose([...inputs, kvLengths, clamped, inRange]);
    });
  });
});
