/**
 * precision 'float16' on webgpu: the table once more, and what halves are known to break on. In lane T2, which every
 * device has, and on hardware on a device of our own too, in lane T3 if it has matrices.
 */
import type { Case } from './cases.js';
import { answersOf, runReference, signatures } from './support/answers.js';
import type { ComparedKernel } from './support/answers.js';
import { boundsOf, expectClose } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectTrue } from './support/expect.js';
import type { DataByName } from './support/inputs.js';
import { uniforms } from './support/inputs.js';
import { casesOf, compareWithReference, outputsOf } from './support/kernelTest.js';
import { itForEach, toTensor } from './support/onDevice.js';
import type { read } from './support/onDevice.js';

/** What a software GPU does again: every sort of shader, several tiles, lengths, groups. */
const chosen = [
  ...['deepseek, rope apart', 'odd columns', 'grouped heads 8 on 2', 'padded batch', 'lengths 0'],
  ...['rows that see nothing', 'negative scale', '129 rows, 113 keys', 'deepseek', 'no rope'],
  ...['four tokens, ragged'],
];

const kernels = (Object.keys(signatures) as ComparedKernel[]).filter((kernel) => kernel !== 'MLADelta');
const ofAttention = ['MLAAttention', 'MLADelta', 'MLAAttentionDq', 'MLAAttentionDkv'] as const;

const [base] = casesOf('MLAAttention').filter(({ name }) => name === '129 rows, 113 keys');

interface Trap {
  name: string;
  /** changes the inputs of the case */
  set: (inputs: DataByName) => void;
}

/** `change(value, row)` for every number of a tensor; all rows have as many. */
function changeEach(
  { values, shape }: DataByName[string],
  change: (value: number, row: number) => number,
): void {
  const columns = shape[shape.length - 1];
  values.forEach((value, index) => (values[index] = change(value, Math.floor(index / columns))));
}

/** A key of the case, in layout bhsd, made like one of its queries: their score is the largest. */
function alignKey({ q, k }: DataByName, key: number, factor: number): void {
  const [, , skv, dn] = k.shape;
  const [, , sq, dqk] = q.shape;
  for (let c = 0; c < dn; c++) k.values[(0 * skv + key) * dn + c] = factor * q.values[(sq - 1) * dqk + c];
}

const magnitudes = uniforms('magnitudes');

const traps: Trap[] = [
  { name: 'the largest score is in the last tile', set: (inputs) => alignKey(inputs, 112, 1) },
  { name: 'one key of score 60', set: (inputs) => alignKey(inputs, 0, 6) },
  { name: 'dOut of 1e-6', set: ({ dOut }) => changeEach(dOut, (value) => value * 1e-6) },
  { name: 'dOut of 1e3', set: ({ dOut }) => changeEach(dOut, (value) => value * 1e3) },
  {
    name: 'rows of dOut from 1e-6 to 1e3',
    set: ({ dOut }) => {
      const ofRows = Array.from({ length: dOut.values.length }, () => 10 ** (9 * magnitudes() - 6));
      changeEach(dOut, (value, row) => value * ofRows[row]);
    },
  },
  { name: 'values near 6e4', set: ({ v }) => changeEach(v, (value) => 6e4 * Math.tanh(value)) },
];

/** Within the float16 bounds of the reference, on these inputs. */
async function compareTrap({ set }: Trap): Promise<void> {
  const { problem, tensors: untouched } = answersOf(base);
  const tensors = Object.fromEntries(
    Object.entries(untouched).map(([name, data]) => [name, { ...data, values: data.values.slice() }]),
  );
  set(tensors);
  for (const kernel of ofAttention) Object.assign(tensors, runReference(kernel, tensors, problem));
  for (const kernel of ofAttention) {
    if (kernel === 'MLADelta') continue;
    const bounds = boundsOf('float16')[kernel === 'MLAAttention' ? 'forward' : 'gradient'];
    await expectKernel(kernel, tensors, (name, got) => expectClose(name, got, tensors[name], bounds));
  }
}

async function expectKernel(
  kernel: ComparedKernel,
  tensors: DataByName,
  check: (name: string, got: Awaited<ReturnType<typeof read>>) => void,
): Promise<void> {
  const outputs = await outputsOf(kernel, tensors, { ...answersOf(base).problem, precision: 'float16' });
  for (const [name, got] of Object.entries(outputs)) check(name, got);
}

function defineFor(own: boolean): void {
  onEachDevice(
    (device) => {
      if (device.backend !== 'webgpu') return;
      if (own && device.isSoftware) {
        it.skip('a device of our own: on hardware, where it opens other lanes');
        return;
      }

      for (const kernel of kernels) {
        describe(kernel, () => {
          const all: Case[] = casesOf(kernel);
          const cases = device.isSoftware ? all.filter(({ name }) => chosen.includes(name)) : all;
          itForEach(cases, device, (c) => compareWithReference(kernel, c, toTensor, 'float16'));
          if (cases.length < all.length) it.skip(`${all.length - cases.length} more cases: on hardware`);
        });
      }

      for (const trap of traps) {
        it(trap.name, () => compareTrap(trap));
      }

      it('what halves cannot hold is clamped: no infinity, no NaN', async () => {
        const { tensors: untouched } = answersOf(base);
        const huge = Object.fromEntries(['q', 'k', 'v'].map((name) => [name, { ...untouched[name] }]));
        for (const data of Object.values(huge)) data.values = data.values.map((value) => value * 1e5);
        await expectKernel('MLAAttention', { ...untouched, ...huge }, (name, { values }) =>
          // lse is -Infinity where a row sees nothing
          expectTrue(
            values.every((value) => value < Infinity),
            `${name} is not finite`,
          ),
        );
      });

      it('NaN stays NaN', async () => {
        const { tensors: untouched } = answersOf(base);
        const v = { ...untouched.v, values: untouched.v.values.slice() };
        v.values[0] = NaN;
        await expectKernel('MLAAttention', { ...untouched, v }, (name, { values }) => {
          if (name === 'out') expectTrue(values.some(Number.isNaN), 'no NaN in out');
        });
      });
    },
    { own },
  );
}

describe("precision 'float16'", () => {
  describe('stock device', () => defineFor(false));
  describe('own device', () => defineFor(true));
});
