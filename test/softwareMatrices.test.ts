/**
 * Lane T3 on any GPU: its shaders with matrices in plain WGSL (support/softwareMatrices.ts) against the reference.
 * float16.test.ts has the whole table on hardware.
 */
import * as tf from '@tensorflow/tfjs-core';
import { knownMatrices } from '../kernels/webgpu/capabilities.js';
import { setDefaultPrecision } from '../src/index.js';
import { currentPlanner } from '../src/core/register.js';
import { packFloat16 } from '../src/core/float16.js';
import type { MlaProblem } from '../src/core/problem.js';
import { answersOf, runReference } from './support/answers.js';
import type { ComparedKernel } from './support/answers.js';
import { boundsOf, expectClose } from './support/compare.js';
import type { Bounds } from './support/compare.js';
import { absentDevices, availableDevices } from './support/devices.js';
import { expectEqual } from './support/expect.js';
import type { Data, DataByName } from './support/inputs.js';
import { casesOf, compareWithReference, outputsOf } from './support/kernelTest.js';
import { differentiable, lossOf } from './support/losses.js';
import { read, toTensor, toTensors } from './support/onDevice.js';
import { installSoftwareMatrices } from './support/softwareMatrices.js';

/** What fits the 32 KiB of a software GPU: every sort of operand, several tiles, lengths, windows, groups. */
const ofGradients = [
  ...['odd columns', 'the whole key is shared', 'grouped heads 8 on 2', 'padded batch', 'lengths 0'],
  ...['rows that see nothing', 'negative scale', 'ragged window', 'narrow window over tiles'],
];
const ofDecode = [
  ...['four tokens, ragged', 'no rope', 'odd columns', 'window both sides', 'top left', 'window'],
  ...['more tokens than keys', '100 rows', '128 heads'],
];
const casesByKernel = {
  MLAAttention: [...ofGradients, 'minicpm3, sbhd', 'ragged tiles', '129 rows, 113 keys'],
  MLAAttentionDq: ofGradients,
  MLAAttentionDkv: ofGradients,
  MLADecode: ['four tokens, ragged', 'no rope', 'odd columns', 'window both sides', 'top left'],
  MLADecodeDq: [...ofDecode, 'ranks 256/32', 'deepseek, ragged'],
  MLADecodeDkv: [...ofDecode, 'ranks 256/32'],
};
const kernels = Object.keys(casesByKernel) as (keyof typeof casesByKernel)[];
const precision = 'float16';

interface Run {
  kernel: ComparedKernel;
  precision: 'float32' | 'float16';
  lane: string;
  names: string[];
}

const [sixteen, intel, apple] = knownMatrices;
const ofShares = [...ofGradients.filter((name) => !name.includes('tiles')), '36 heads, 300 keys'];

/** Each kernel in its lane, and the forward once more with float32 as two halves. */
const runs: Run[] = [
  ...kernels.map((kernel): Run => ({ kernel, precision, lane: 'T3', names: casesByKernel[kernel] })),
  { kernel: 'MLAAttention', precision: 'float32', lane: 'T3x', names: ofShares },
];

/** The forward on other shapes; there 192/128 fits too. */
const ofForward = [...ofGradients, 'minicpm3, sbhd', '129 rows, 113 keys', 'deepseek'];
const few = ['odd columns', 'grouped heads 8 on 2', 'padded batch', 'lengths 0'];
const runsOnIntel: Run[] = [
  { kernel: 'MLAAttention', precision, lane: 'T3', names: [...few, '129 rows, 113 keys', 'deepseek'] },
  { kernel: 'MLAAttention', precision: 'float32', lane: 'T3x', names: [...few, '36 heads, 300 keys'] },
];
const runsOnApple: Run[] = [
  {
    kernel: 'MLAAttention',
    precision: 'float32',
    lane: 'T3x',
    names: [...ofForward, 'ragged tiles', 'deepseek, rope apart', 'deepseek, 16 heads'],
  },
];

const decodeGradients = ['MLADecodeDq', 'MLADecodeDkv'] as const;
const [ofDecodeCase] = casesOf('MLADecode').filter(({ name }) => name === 'four tokens, ragged');

/** What gradientScales.ts must bring into the range of halves; scores stay what they are. */
const magnitudes: { name: string; factors: Record<string, number> }[] = [
  { name: 'dOut of 1e-6', factors: { dOut: 1e-6, dLse: 1e-6 } },
  { name: 'dOut of 1e3', factors: { dOut: 1e3, dLse: 1e3 } },
  { name: 'a cache of 1e4', factors: { cKv: 1e4, kRope: 1e4 } },
];

/** A copy, its tensors times a factor each. */
function scaled(tensors: DataByName, factors: Record<string, number>): DataByName {
  return Object.fromEntries(
    Object.entries(tensors).map(([name, data]) => [
      name,
      { ...data, values: data.values.map((value: number) => value * (factors[name] ?? 1)) },
    ]),
  );
}

function packed({ axes, shape, values }: Data): Data {
  const words = new Int32Array(values.length / 2);
  packFloat16(words, 0, Float32Array.from(values));
  return { axes, shape: [...shape.slice(0, -1), shape[shape.length - 1] / 2], values: words };
}

/** Defines the tests of some runs. */
function itRuns(runs: Run[]): void {
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
}

async function expectOutputs(
  kernel: ComparedKernel,
  inputs: DataByName,
  problem: MlaProblem,
  expected: DataByName,
  bounds: Bounds,
  lane = 'T3',
): Promise<void> {
  expectEqual(currentPlanner('test').plan(kernel, problem).lane, lane);
  for (const [name, got] of Object.entries(await outputsOf(kernel, inputs, problem))) {
    expectClose(name, got, expected[name], bounds);
  }
}

const adapter = await globalThis.navigator?.gpu?.requestAdapter();
const hasSubgroups = adapter?.features.has('subgroups') === true;

describe('matrices in software', () => {
  for (const { name, reason } of absentDevices()) it.skip(`${name}: ${reason}`);
  for (const device of availableDevices()) {
    if (device.backend !== 'webgpu') continue;
    if (!hasSubgroups) {
      it.skip(`${device.name}: has no subgroups`);
      continue;
    }
    describe(device.name, () => {
      before(() => installSoftwareMatrices(sixteen));

      itRuns(runs);

      for (const { name, factors } of magnitudes) {
        it(`MLADecodeDq, MLADecodeDkv: ${name}`, async function () {
          this.timeout(120_000);
          const { problem: ofCase, tensors: untouched } = answersOf(ofDecodeCase);
          const softmaxScale = ofCase.softmaxScale / (factors.cKv ?? 1);
          const problem = { ...ofCase, softmaxScale, precision } as const;
          const tensors = scaled(untouched, factors);
          for (const kernel of ['MLADecode', 'MLADelta', ...decodeGradients] as const) {
            Object.assign(tensors, runReference(kernel, tensors, problem));
          }
          for (const kernel of decodeGradients) {
            await expectOutputs(kernel, tensors, problem, tensors, boundsOf(precision).gradient);
          }
        });
      }

      it('MLADecode, MLADecodeDq: a packed cache', async function () {
        this.timeout(120_000);
        const { problem: ofCase, tensors } = answersOf(ofDecodeCase);
        const problem = { ...ofCase, cacheFormat: 'float16', precision } as const;
        const inputs = { ...tensors, cKv: packed(tensors.cKv), kRope: packed(tensors.kRope) };
        const { forward, gradient } = boundsOf(precision);
        await expectOutputs('MLADecode', inputs, problem, tensors, forward);
        await expectOutputs('MLADecodeDq', inputs, problem, tensors, gradient);
      });

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

    describe(`${device.name}, matrices of 8x16x16 halves`, () => {
      before(() => installSoftwareMatrices(intel, { min: 8, max: 32 }));

      itRuns(runsOnIntel);
    });

    describe(`${device.name}, matrices of 8x8x8 floats`, () => {
      before(() => installSoftwareMatrices(apple));

      itRuns(runsOnApple);

      it('MLAAttention, T3x: largest scores that come late, by more than there is room for', async function () {
        this.timeout(120_000);
        const [c] = casesOf('MLAAttention').filter(({ name }) => name === '129 rows, 113 keys');
        const { problem, tensors: untouched } = answersOf(c);
        const tensors = scaled(untouched, { q: 20 });
        Object.assign(tensors, runReference('MLAAttention', tensors, problem));
        await expectOutputs('MLAAttention', tensors, problem, tensors, boundsOf('float32').forward, 'T3x');
      });
    });
  }
});
