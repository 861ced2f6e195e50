/** What is peculiar to TensorFlow: narrow types, messages of the ops themselves, Workers, a second copy of the library. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import * as tf from '@tensorflow/tfjs-core';
import { forgetHostCopies } from '../kernels/tensorflow/hostCopies.js';
import type { TensorflowBackend } from '../kernels/tensorflow/index.js';
import { mlaAttention, mlaDecode } from '../src/index.js';
import type { Precision } from '../src/index.js';
import { attentionCases } from './cases.js';
import { answersOf, signatures } from './support/answers.js';
import type { ComparedKernel } from './support/answers.js';
import { expectClose, expectSameBits, gradientFloat16Bounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import type { DataByName } from './support/inputs.js';
import { read, toTensors } from './support/onDevice.js';
import { isTensorflowProcess, tfjsNode } from './support/tensorflow.js';

/** What the tests need of the backend beside its kernels: raw handles, for types that JavaScript cannot hold. */
interface RawBackend extends TensorflowBackend {
  getInputTensorIds(tensors: tf.TensorInfo[]): number[];
  createOutputTensor(metadata: Handle): tf.Tensor;
  readonly binding: TensorflowBackend['binding'] & {
    executeOp(op: string, attributes: Attribute[], ids: number[], outputs: number): Handle[];
    createTensor(shape: number[], dtype: number, values: tf.TypedArray): number;
    deleteTensor(id: number): void;
    getNumOfTensors(): number;
  };
}
interface Handle {
  id: number;
  shape: number[];
  dtype: number;
}
interface Attribute {
  name: string;
  type: number;
  value: string | number;
}

const float = 1;
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
const library = fileURLToPath(
  new URL(`../native/mla-${process.platform}-${process.arch}.node`, import.meta.url),
);

function normal(shape: number[], seed: number): tf.Tensor {
  return tf.randomNormal(shape, 0, 1, 'float32', seed);
}

function backendOf(): RawBackend {
  return tf.backend() as RawBackend;
}

function attributes(type: number, scale: number): Attribute[] {
  const { TF_ATTR_TYPE, TF_ATTR_STRING, TF_ATTR_FLOAT, TF_ATTR_INT } = backendOf().binding;
  return [
    { name: 'T', type: TF_ATTR_TYPE, value: type },
    { name: 'layout', type: TF_ATTR_STRING, value: 'bshd' },
    { name: 'softmax_scale', type: TF_ATTR_FLOAT, value: scale },
    { name: 'causal', type: TF_ATTR_STRING, value: 'bottom-right' },
    { name: 'window_left', type: TF_ATTR_INT, value: -1 },
    { name: 'window_right', type: TF_ATTR_INT, value: -1 },
  ];
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

/** Posts how many numbers were wrong. Two threads of JavaScript have two contexts of TensorFlow, and one library. */
const workerCode = `
  const tf = require(${JSON.stringify(tfjsNode)});
  require(${JSON.stringify(library)}).register();
  const { binding } = tf.backend();
  const text = (name, value) => ({ name, type: binding.TF_ATTR_STRING, value });
  const attributes = [
    { name: 'T', type: binding.TF_ATTR_TYPE, value: ${float} },
    text('layout', 'bshd'),
    text('causal', 'bottom-right'),
    { name: 'softmax_scale', type: binding.TF_ATTR_FLOAT, value: 0.5 },
    { name: 'window_left', type: binding.TF_ATTR_INT, value: -1 },
    { name: 'window_right', type: binding.TF_ATTR_INT, value: -1 },
  ];
  const [x, none, noLengths] = [tf.ones([1, 64, 4, 32]), tf.ones([0]), tf.tensor1d([], 'int32')];
  let wrong = 0;
  for (let n = 0; n < 300; n++) {
    const inputs = [x, x, x, none, noLengths, noLengths];
    const outputs = tf.backend().executeMultipleOutputs('MLAAttention', attributes, inputs, 2);
    wrong += outputs[0].dataSync().filter((value) => Math.abs(value - 1) > 1e-5).length;
    tf.dispose(outputs);
  }
  require('node:worker_threads').parentPort.postMessage(wrong);
`;

/** An op that is given what it cannot use. */
function refuse(
  op: string,
  inputs: tf.Tensor[],
  changes: Partial<Record<string, string | number>> = {},
  outputs = 2,
): string {
  const given = attributes(float, 0.5).map((attribute) => ({
    ...attribute,
    value: changes[attribute.name] ?? attribute.value,
  }));
  try {
    tf.dispose(backendOf().executeMultipleOutputs(op, given, inputs, outputs));
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error(`expected ${op} to refuse, got none`);
}

function entryOf(name: string): string {
  return createRequire(import.meta.url).resolve(name);
}

describe('tensorflow', () => {
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

    it('says what is wrong with tensors that do not fit', () => {
      const [x, none, noLengths] = [tf.ones([1, 3, 2, 8]), tf.ones([0]), tf.tensor1d([], 'int32')];
      const attend = (...inputs: tf.Tensor[]): string => refuse('MLAAttention', inputs);
      const message = (text: string): string => `MLAAttention: ${text}`;
      const cases: [string, string][] = [
        [attend(tf.ones([3, 2, 8]), x, x, none, noLengths, noLengths), 'q must have rank 4, got 3'],
        [
          attend(x, tf.ones([2, 3, 2, 8]), x, none, noLengths, noLengths),
          "k must be [1, 3, 2, 8] for layout 'bshd', got [2, 3, 2, 8]",
        ],
        [
          attend(x, x, tf.ones([1, 4, 2, 8]), none, noLengths, noLengths),
          "v must be [1, 3, 2, 8] for layout 'bshd', got [1, 4, 2, 8]",
        ],
        [
          attend(x, tf.ones([1, 3, 2, 6]), x, tf.ones([1, 9, 2]), noLengths, noLengths),
          "k_rope must be [1, 3, 2] for layout 'bshd', got [1, 9, 2]",
        ],
        [
          attend(x, tf.ones([1, 3, 3, 8]), tf.ones([1, 3, 3, 8]), none, noLengths, noLengths),
          'hq must be a multiple of hkv=3, got hq=2',
        ],
        [
          attend(x, x, x, none, tf.tensor1d([1, 2], 'int32'), noLengths),
          "q_lengths must be [1] for layout 'bshd', got [2]",
        ],
      ];
      for (const [got, expected] of cases) {
        expectTrue(got.includes(message(expected)), `expected "${message(expected)}" in: ${got}`);
      }
      const lse = tf.ones([1, 2, 3]);
      const differentiate = (out: tf.Tensor, dLse: tf.Tensor): string => {
        const inputs = [x, x, x, none, noLengths, noLengths, x, lse, out, dLse];
        return refuse('MLAAttentionBackward', inputs, {}, 4);
      };
      for (const [got, expected] of [
        [differentiate(lse, none), "out must be [1, 3, 2, 8] for layout 'bshd', got [1, 2, 3]"],
        [differentiate(x, tf.ones([1, 3, 2])), "d_lse must be [1, 2, 3] for layout 'bshd', got [1, 3, 2]"],
      ]) {
        const whole = `MLAAttentionBackward: ${expected}`;
        expectTrue(got.includes(whole), `expected "${whole}" in: ${got}`);
      }
      tf.dispose([x, lse, none, noLengths]);
    });

    it('says what is wrong with attributes', () => {
      const [x, none, noLengths] = [tf.ones([1, 3, 2, 8]), tf.ones([0]), tf.tensor1d([], 'int32')];
      const got = refuse('MLAAttention', [x, x, x, none, noLengths, noLengths], { layout: 'hbsd' });
      expectTrue(got.includes(`Value for attr 'layout' of "hbsd" is not in the list of allowed values`), got);
      tf.dispose([x, none, noLengths]);
    });

    it('gives a tensor another handle of the same memory, for reads after it has changed', async () => {
      const [cache, rope] = [tf.zeros<tf.Rank.R3>([1, 4, 8]), tf.zeros<tf.Rank.R3>([1, 4, 8])];
      const [rows, lengths] = [tf.ones<tf.Rank.R3>([1, 1, 8]), tf.tensor2d([[1], [1]], [2, 1], 'int32')];
      const [before] = backendOf().getInputTensorIds([cache]);
      const held = backendOf().binding.getNumOfTensors();
      forgetHostCopies([cache], backendOf());
      const [after] = backendOf().getInputTensorIds([cache]);
      expectTrue(after !== before, 'expected another handle');
      expectEqual(backendOf().binding.getNumOfTensors(), held, 'handles');
      tf.engine().runKernel('MLACacheAppend', {
        cKv: cache,
        kRope: rope,
        newCkv: rows,
        newKRope: rows,
        lengths,
      });
      const expected = Array.from({ length: 32 }, (_, index) => Number(index >= 8 && index < 16));
      expectEqual([...(await cache.data())], expected, 'what is written through the new handle');
      tf.dispose([cache, rope, rows, lengths]);
    });

    it('keeps no handle and makes no kernel anew for other lengths', async () => {
      const { binding } = backendOf();
      const run = async (skv: number, length: number): Promise<void> => {
        const q = tf.ones<tf.Rank.R4>([1, 2, 2, 8]);
        const kv = tf.ones<tf.Rank.R4>([1, skv, 2, 8]);
        const out = mlaAttention(q, kv, kv, { causal: true, kvLengths: [length] });
        await out.data();
        tf.dispose([q, kv, out]);
      };
      for (let n = 0; n < 50; n++) await run(5, 5);
      const [handles, tensors] = [binding.getNumOfTensors(), tf.memory().numTensors];
      const rss = process.memoryUsage().rss;
      for (let n = 0; n < 3000; n++) await run(1 + (n % 300), n % 2);
      expectEqual(
        [binding.getNumOfTensors(), tf.memory().numTensors],
        [handles, tensors],
        'handles, tensors',
      );
      const grown = process.memoryUsage().rss - rss;
      expectTrue(grown < 30e6, `expected memory to stay, got ${grown} bytes more`);
    }).timeout(60_000);

    it('makes no tensor anew for absent inputs', () => {
      const backend = backendOf() as { binding: RawBackend['binding'] };
      const { binding } = backend;
      let created = 0;
      const createTensor: typeof binding.createTensor = (...of) => {
        created++;
        return binding.createTensor(...of);
      };
      const x = tf.ones<tf.Rank.R4>([1, 2, 1, 8]);
      mlaAttention(x, x, x).dispose();
      backend.binding = Object.create(binding, { createTensor: { value: createTensor } }) as typeof binding;
      try {
        mlaAttention(x, x, x).dispose();
        expectEqual(created, 0, 'tensors that a call made on the host');
        mlaAttention(x, x, x, { kvLengths: [2] }).dispose();
        expectEqual(created, 1, 'tensors that a call with lengths made');
      } finally {
        backend.binding = binding;
      }
      x.dispose();
    });

    it('bears a second copy of the library in the process', () => {
      const folder = mkdtempSync(join(tmpdir(), 'tfjs-mla-'));
      const copy = join(folder, 'copy.node');
      copyFileSync(library, copy);
      const addon = createRequire(import.meta.url)(copy) as { register(): { tensorflow: string } };
      expectTrue(/^2\./.test(addon.register().tensorflow), 'expected a version of TensorFlow 2');
      rmSync(folder, { recursive: true });
    });

    it('computes in a Worker and on the main thread at once', async () => {
      const worker = new Worker(workerCode, { eval: true, execArgv: [] });
      const answer = new Promise<number>((resolve, reject) => {
        worker.once('message', resolve).once('error', reject);
      });
      const x = tf.ones<tf.Rank.R4>([1, 64, 4, 32]);
      let isOver = false;
      const settled = answer.finally(() => (isOver = true));
      while (!isOver) {
        const out = mlaAttention(x, x, x, { causal: true });
        const values = await out.data();
        expectTrue(
          values.every((value) => Math.abs(value - 1) < 1e-5),
          'expected ones',
        );
        out.dispose();
        await new Promise((resolve) => setImmediate(resolve));
      }
      expectEqual(await settled, 0, 'wrong numbers in the Worker');
      await worker.terminate();
      x.dispose();
    }).timeout(60_000);
  });

  /** As a program of a user's: plain Node, the package as npm run build makes it, by its own name. */
  const orders = ['tfjs-mla/node', tfjsNode].flatMap((first) =>
    ['module', 'commonjs'].map((type) => ({ first, type })),
  );
  for (const { first, type } of orders) {
    const title = `computes in plain Node, ${first === tfjsNode ? 'tfjs-node' : 'our door'} first, ${type}`;
    if (!existsSync(new URL('../dist/src/node.js', import.meta.url))) {
      it.skip(`${title}: no dist: npm run build makes it`);
      continue;
    }
    it(title, () => {
      const load = (name: string): string =>
        type === 'module' ? `await import(${JSON.stringify(name)})` : `require(${JSON.stringify(name)})`;
      const code = `
        ${load(type === 'module' && first === tfjsNode ? pathToFileURL(entryOf(first)).href : first)};
        ${load('tfjs-mla/node')};
        const { ones } = ${load('@tensorflow/tfjs-core')};
        const { mlaAttention } = ${load('tfjs-mla')};
        const x = ones([1, 3, 1, 4]);
        console.log(mlaAttention(x, x, x).dataSync().every((value) => Math.abs(value - 1) < 1e-6));
      `;
      const flags = type === 'module' ? ['--input-type=module'] : [];
      const { stdout, stderr } = spawnSync(process.execPath, [...flags, '-e', code], {
        cwd: fileURLToPath(new URL('..', import.meta.url)),
        encoding: 'utf8',
      });
      expectEqual(stdout.trim().split('\n').at(-1), 'true', stderr);
    });
  }

  it('says so where TensorFlow is not loaded', () => {
    const code = `try { require(${JSON.stringify(library)}).register() } catch (error) { console.log(error.message) }`;
    const { stdout } = spawnSync(process.execPath, ['-e', code], { encoding: 'utf8' });
    expectEqual(stdout.trim(), 'TensorFlow is not loaded in this process');
  });
});
