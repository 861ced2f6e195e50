/** What is peculiar to TensorFlow: messages of the ops themselves, handles, Workers, a second copy of the library. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import * as tf from '@tensorflow/tfjs-core';
import { forgetHostCopies } from '../kernels/tensorflow/hostCopies.js';
import { mlaAttention } from '../src/index.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { attributes, backendOf, float } from './support/rawOps.js';
import type { RawBackend } from './support/rawOps.js';
import { isTensorflowProcess, tfjsNode } from './support/tensorflow.js';

const library = fileURLToPath(
  new URL(`../native/mla-${process.platform}-${process.arch}.node`, import.meta.url),
);

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
