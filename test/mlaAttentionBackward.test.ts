/** The whole backward at once gives the bits of its parts, which the reference checks, whatever is packed into what. */
import { attentionCases } from './cases.js';
import { answersOf } from './support/answers.js';
import { expectSameBits } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { outputsOf } from './support/kernelTest.js';
import { itForEach, poisoned, poisonPool } from './support/onDevice.js';

describe('MLAAttentionBackward', () => {
  onEachDevice((device) => {
    if (device.backend !== 'tensorflow') return;

    itForEach(attentionCases, device, async (c) => {
      const { problem, tensors } = answersOf(c);
      const given = poisoned(c, tensors);
      const { delta } = await outputsOf('MLADelta', given, problem);
      const withDelta = { ...given, delta: { ...given.delta, values: delta.values as Float32Array } };
      const parts = {
        ...(await outputsOf('MLAAttentionDq', withDelta, problem)),
        ...(await outputsOf('MLAAttentionDkv', withDelta, problem)),
      };
      await poisonPool(Object.values(parts).map(({ shape }) => shape));
      const joined = await outputsOf('MLAAttentionBackward', given, problem);
      for (const [name, { values }] of Object.entries(joined)) {
        expectSameBits(name, values, parts[name].values);
      }
    });
  });
});
