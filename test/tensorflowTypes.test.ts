/** Numbers of 16 bits in TensorFlow: tensors of them, which JavaScript cannot hold, and float32 tensors computed in them. */
import * as tf from '@tensorflow/tfjs-core';
import { mlaDecode } from '../src/index.js';
import type { Precision } from '../src/index.js';
import { attentionCases } from './cases.js';
import { answersOf, signatures } from './support/answers.js';
import type { ComparedKernel } from './support/answers.js';
import { expectClose, expectSameBits, gradientFloat16Bounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import type { DataByName } from './support/inputs.js';
import { read, toTensors } from './support/onDevice.js';
import { attributes, backendOf, float } from './support/rawOps.js';
import type { Handle } from './support/rawOps.js';
import { isTensorflowProcess } from './support/tensorflow.js';

/** By TensorFlow's number for the type: the most that out may be off, the floors of the golden files' README. */
const narrowTypes = [
  { name: 'half', type: 19, bounds: { metric: 2e-3, relativeL2: 2e-3 } },
  { name: 'bfloat16', type: 14, bounds: { metric: 1.5e-2, relativeL2: 1.5e-2 } },
];
/** Of float32 tensors; on the CPU all are float32. */
const decodePrecisions = [
  { name: 'float16', bounds: gradientFloat16Bounds },
  { name: 'bfloat16', bounds: { metric: 3e-2, relativeL2: 3e-2 } },
] as const;

function normal(shape: number[], seed: number): tf.Tensor {
  return tf.randomNormal(shape, 0, 1, 'float32', seed);
}

/** An op on raw handles of one type, but for lengths and statistics: its outputs, as float32 if they are of that type. */
function runIn(
  type: number,
  op: string,
  data: DataByName,
  scale: number,
  outputTypes: number[],
): tf.Tensor[] {
  const backend = backendOf();
  const { binding } = backend;
  const cast = (id: number, from: number, to: number): Handle => {
    const types = [
      { name: 'SrcT', type: binding.TF_ATTR_TYPE, value: from },
      { name: 'DstT', type: binding.TF_ATTR_TYPE, value: to },
    ];
    return binding.executeOp('Cast', types, [id], 1)[0];
  };
  const { inputs: names } = signatures[op as ComparedKernel];
  const given = toTensors(data, names);
  const ids = backend.getInputTensorIds(given);
  const isNarrow = names.map((name) => !/^(qLengths|kvLengths|lse|delta|dLse)$/.test(name));
  const inputs = ids.map((id, index) => (isNarrow[index] ? cast(id, float, type).id : id));
  const ofDelta = ['T', 'layout'];
  const known = attributes(type, scale).filter(({ name }) => op !== 'MLADelta' || ofDelta.includes(name));
  const outputs = binding.executeOp(op, known, inputs, outputTypes.length);
  const got = outputs.map(({ dtype }) => dtype);
  expectEqual(got, outputTypes, 'types');
  const results = outputs.map((output) =>
    backend.createOutputTensor(output.dtype === float ? output : cast(output.id, type, float)),
  );
  for (const { id } of outputs.filter(({ dtype }) => dtype !== float)) binding.deleteTensor(id);
  for (const id of inputs.filter((_, index) => isNarrow[index])) binding.deleteTensor(id);
  tf.dispose(given);
  return results;
}

describe('tensorflow: types', () => {
  if (!isTensorflowProcess) {
    it.skip('tensorflow: runs in npm run mocha:tensorflow');
    return;
  }
  onEachDevice(() => {
    for (const { name, type, bounds } of narrowTypes) {
      it(`computes in float32 on ${name}`, async () => {
        const c = attentionCases.find(({ name }) => name === 'deepseek, rope apart');
        if (!c) throw new Error('expected the case in the table, got none');
        const { problem, tensors } = answersOf({ ...c, layout: 'bshd' });
        const [out, lse] = runIn(type, 'MLAAttention', tensors, problem.softmaxScale, [type, float]);
        const values = await read(out);
        expectClose('out', values, tensors.out, bounds);
        expectTrue(
          values.values.some((value, index) => value !== tensors.out.values[index]),
          `expected the roundings of ${name}, got float32`,
        );
        tf.dispose([out, lse]);
      });

      it(`gives the bits of both gradients at once that each has alone, on ${name}`, async () => {
        for (const caseName of ['deepseek 129', 'grouped heads 8 on 2', '36 heads, 300 keys']) {
          const c = attentionCases.find(({ name }) => name === caseName);
          if (!c) throw new Error(`expected the case ${caseName} in the table, got none`);
          const { problem, tensors } = answersOf({ ...c, layout: 'bshd' });
          const run = (op: string, outputs: number, data = tensors): tf.Tensor[] =>
            runIn(type, op, data, problem.softmaxScale, Array<number>(outputs).fill(type));
          const [delta] = runIn(type, 'MLADelta', tensors, problem.softmaxScale, [float]);
          const values = (await delta.data()) as Float32Array;
          const withDelta = { ...tensors, delta: { ...tensors.delta, values } };
          const apart = [...run('MLAAttentionDq', 1, withDelta), ...run('MLAAttentionDkv', 3, withDelta)];
          const joined = run('MLAAttentionBackward', 4);
          for (const [index, output] of joined.entries()) {
            expectSameBits(`${caseName}, output ${index}`, await output.data(), await apart[index].data());
          }
          tf.dispose([delta, ...apart, ...joined]);
        }
      });
    }

    for (const { name, bounds } of decodePrecisions) {
      it(`decodes ${name} and differentiates, whatever the number of rows`, async () => {
        // of every count of rows modulo the four that a warp of the GPU's kernels has
        for (const heads of [1, 2, 3, 5, 16]) {
          const [latents, ropes] = [512, 64].map((d) => [normal([1, 1, heads, d], 1), normal([1, 70, d], 2)]);
          const inputs = [latents[0], ropes[0], latents[1], ropes[1]];
          const dOut = normal([1, 1, heads, 512], 3);
          const gradients = (precision: Precision): tf.Tensor[] =>
            tf.grads((q, qRope, c, cRope) =>
              mlaDecode(q as tf.Tensor4D, qRope as tf.Tensor4D, c as tf.Tensor3D, cRope as tf.Tensor3D, {
                softmaxScale: 0.05,
                precision,
              }),
            )(inputs, dOut);
          const [got, expected] = [gradients(name), gradients('float32')];
          for (const [i, gradient] of got.entries()) {
            expectClose(
              `${heads} heads, gradient ${i}`,
              await read(gradient),
              await read(expected[i]),
              bounds,
            );
          }
          tf.dispose([inputs, dOut, got, expected]);
        }
      });
    }
  });
});
