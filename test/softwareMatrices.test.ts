/**
 * Lane T3 on any GPU: its shaders with matrices in plain WGSL (support/softwareMatrices.ts) against the reference.
 * float16.test.ts has the whole table on hardware.
 */
import * as tf from '@tensorflow/tfjs-core';
import { setDefaultPrecision } from '../src/index.js';
import { currentPlanner } from '../src/core/register.js';
import { answersOf } from './support/answers.js';
import { boundsOf, expectClose } from './support/compare.js';
import { availableDevices } from './support/devices.js';
import { expectEqual } from './support/expect.js';
import { casesOf, compareWithReference } from './support/kernelTest.js';
import { differentiable, lossOf } from './support/losses.js';
import { read, toTensor, toTensors } from './support/onDevice.js';
import { installSoftwareMatrices } from './support/softwareMatrices.js';

/** What fits the 32 KiB of a software GPU: every sort of operand, several tiles, lengths, windows, groups. */
const ofGradients = [
  ...['odd columns', 'the whole key is shared', 'grouped heads 8 on 2', 'padded batch', 'lengths 0'],
  ...['rows that see nothing', 'negative scale', 'ragged window', 'narrow window over tiles'],
];
const casesByKernel = {
  MLAAttention: [...ofGradients, 'minicpm3, sbhd', 'ragged tiles', '129 rows, 113 keys'],
  MLAAttentionDq: ofGradients,
  MLAAttentionDkv: ofGradients,
  MLADecode: ['four tokens, ragged', 'no rope', 'odd columns', 'window both sides', 'top left'],
};
const kernels = Object.keys(casesByKernel) as (keyof typeof casesByKernel)[];
const precision = 'float16';

/** Each kernel in its lane, and the forward once more with float32 as two halves. */
const runs = [
  ...kernels.map((kernel) => ({ kernel, precision, lane: 'T3', names: casesByKernel[kernel] }) as const),
  {
    kernel: 'MLAAttention',
    precision: 'float32',
    lane: 'T3x',
    names: [...ofGradients.filter((name) => !name.includes('tiles')), '36 heads, 300 keys'],
  } as const,
];

describe('matrices in software', () => {
  for (const device of availableDevices()) {
    if (device.backend !== 'webgpu') continue;
    describe(device.name, () => {
      before(() => installSoftwareMatrices([{ m: 16, n: 16, k: 16, operand: 'f16' }]));

      for (const { kernel, precision, lane, names } of runs) {
        for (const name of names) {
          const c = casesOf(kernel).find((candidate) => candidate.name === name);
          if (!c) throw new Error(`no case '${name}'`);
          it(`${kernel}, ${lane}: ${name}`, async function () {
            this.timeout(120_000);
            const { problem } = answersOf(c);
            expectEqual(currentPlanner('test').plan(kernel, { ...problem, precision }).lane, lane);
            await compareWithReference(kernel, c, toTensor, precision);
          });
        }
      }

      for (const name of ['padded batch', 'narrow window over tiles']) {
        it(`MLAAttentionBackward: ${name}`, async function () {
          this.timeout(120_000);
          const [c] = casesOf('MLAAttention').filter((candidate) => candidate.name === name);
          const { problem, tensors } = answersOf(c);
          const { cacheKey } = currentPlanner('test').plan('MLAAttentionBackward', { ...problem, precision });
          expectEqual(cacheKey.split(' ')[0], 'MLAAttentionBackward');
          const { inputs: names, gradients: gradientNames } = differentiable(c);
          setDefaultPrecision(precision);
          const inputs = toTensors(tensors, names);
          const gradients = tf.grads((...given) => lossOf(c, tensors, given))(inputs);
          setDefaultPrecision('float32');
          for (const [index, gradient] of gradients.entries()) {
            const nameOf = gradientNames[index];
            expectClose(nameOf, await read(gradient), tensors[nameOf], boundsOf(precision).gradient);
          }
          tf.dispose([...inputs, ...gradients]);
        });
      }
    });
  }
});
