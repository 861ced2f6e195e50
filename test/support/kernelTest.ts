/** The life of every kernel's test file: all cases on all devices against the reference. */
import * as tf from '@tensorflow/tfjs-core';
import '../../src/index.js';
import '../../src/wasm.js';
import '../../src/webgpu.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { attentionCases, decodeCases } from '../cases.js';
import type { Case } from '../cases.js';
import { answersOf, signatures } from './answers.js';
import type { ComparedKernel } from './answers.js';
import { boundsOf, expectClose, expectSameBits } from './compare.js';
import { onEachDevice } from './devices.js';
import { expectEqual } from './expect.js';
import { itForEach, poisoned, poisonPool, read, toTensor, toView } from './onDevice.js';
import type { Data, DataByName } from './inputs.js';

/** The cases that a kernel has to do with. */
export function casesOf(kernel: ComparedKernel): Case[] {
  const ofAttention: Case[] = kernel.startsWith('MLADecode') ? [] : attentionCases;
  return [...ofAttention, ...(kernel.startsWith('MLAAttention') ? [] : decodeCases)];
}

/** Defines the tests of one kernel. */
export function testKernel(kernel: ComparedKernel): void {
  describe(kernel, () => {
    onEachDevice((device) => {
      const cases = casesOf(kernel);
      itForEach(cases, device, (c) => compareWithReference(kernel, c));

      const [withViews] = cases.filter(({ name }) => name === 'odd columns');
      it(`reads views: ${withViews.name}`, () => compareWithReference(kernel, withViews, toView));
    });
  });
}

/** What a kernel gives on plain data, by name. */
export async function outputsOf(
  kernel: ComparedKernel,
  tensors: DataByName,
  problem: MlaProblem,
): Promise<Record<string, Awaited<ReturnType<typeof read>>>> {
  const { inputs: names, outputs } = signatures[kernel];
  const inputs = Object.fromEntries(names.map((name) => [name, toTensor(tensors[name])]));
  const results = [tf.engine().runKernel<tf.Tensor | tf.Tensor[]>(kernel, inputs, problem)].flat();
  const got = await Promise.all(results.map(read));
  tf.dispose([...Object.values(inputs), ...results]);
  return Object.fromEntries(outputs.map((name, index) => [name, got[index]]));
}

/**
 * One kernel on one case. Traps: NaN past the lengths, NaN in recycled buffers, sentinels in buffers of the outputs'
 * sizes that belong to others, inputs that must stay as they are, and nothing left behind.
 */
export async function compareWithReference(
  kernel: ComparedKernel,
  c: Case,
  makeTensor: (data: Data, index: number) => tf.Tensor = toTensor,
  precision: 'float32' | 'float16' = 'float32',
): Promise<void> {
  const { problem, tensors } = answersOf(c);
  const { inputs: inputNames, outputs: outputNames } = signatures[kernel];
  const bounds = boundsOf(precision)[outputNames[0] === 'out' ? 'forward' : 'gradient'];
  // MLADelta takes no lengths: it reads all rows
  const given = kernel === 'MLADelta' ? tensors : poisoned(c, tensors);
  const before = tf.memory().numTensors;

  const shapes = outputNames.map((name) => tensors[name].shape);
  await poisonPool(shapes);
  const sentinels = shapes.map((shape) => tf.fill(shape, 12345));
  const inputs = inputNames.map((name, index) => makeTensor(given[name], index));
  const named = Object.fromEntries(inputNames.map((name, index) => [name, inputs[index]]));
  const result = tf.engine().runKernel<tf.Tensor | tf.Tensor[]>(kernel, named, { ...problem, precision });
  const outputs = [result].flat();

  expectEqual(outputs.length, outputNames.length, 'outputs');
  for (const [index, name] of outputNames.entries()) {
    expectClose(name, await read(outputs[index]), tensors[name], bounds);
  }
  for (const [index, name] of inputNames.entries()) {
    expectSameBits(`${name} afterwards`, await inputs[index].data(), given[name].values);
  }
  for (const sentinel of sentinels) {
    const values = await sentinel.data();
    expectSameBits('sentinel', values, new Float32Array(values.length).fill(12345));
  }
  tf.dispose([...inputs, ...outputs, ...sentinels]);
  expectEqual(tf.memory().numTensors, before, 'tensors left');
}
