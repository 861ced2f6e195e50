/** explain() tells what would run, and it is what runs. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from '../kernels/tensorflow/index.js';
import { compiledKeys } from '../kernels/webgpu/pipeline.js';
import { explain, mlaAttention, mlaDecode } from '../src/index.js';
import type { KernelName } from '../src/index.js';
import '../src/webgpu.js';
import { onEachDevice, threadsInIsolation } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import './support/losses.js';
import { isPage } from './support/onDevice.js';

/** Head sizes that no other test has, so that their pipelines are compiled here. */
const attention = { q: [1, 5, 2, 44], k: [1, 6, 2, 36], v: [1, 6, 2, 20], kRope: [1, 6, 8] };
const decode = { qLatent: [1, 2, 3, 52], qRope: [1, 2, 3, 12], cKv: [1, 9, 52], kRope: [1, 9, 12] };
const decodeOptions = { softmaxScale: 0.1 };

const kernels = {
  mlaAttention: ['MLAAttention', 'MLAAttentionDq', 'MLAAttentionDkv'],
  mlaDecode: ['MLADecode', 'MLADecodeDq', 'MLADecodeDkv'],
} as const;

const lanes = {
  cpu: ['reference'],
  wasm: ['SIMD', 'relaxed SIMD'],
  webgpu: ['T1', 'T1s', 'T2', 'T3', 'T3x'],
  tensorflow: ['sse2', 'avx2', 'avx512', 'sm_90a', 'sm_80', 'general'],
};

function ones4(shape: number[]): tf.Tensor4D {
  return tf.ones<tf.Rank.R4>(shape as [number, number, number, number]);
}

function ones3(shape: number[]): tf.Tensor3D {
  return tf.ones<tf.Rank.R3>(shape as [number, number, number]);
}

/** Runs the ops and their gradients on these shapes. */
async function runBoth(): Promise<void> {
  const [q, k, v, kRope] = [
    ones4(attention.q),
    ones4(attention.k),
    ones4(attention.v),
    ones3(attention.kRope),
  ];
  const attend = (...[q1, k1, v1, kRope1]: tf.Tensor[]): tf.Tensor =>
    mlaAttention(q1 as tf.Tensor4D, k1 as tf.Tensor4D, v1 as tf.Tensor4D, { kRope: kRope1 as tf.Tensor3D });
  const decodeInputs = [ones4(decode.qLatent), ones4(decode.qRope), ones3(decode.cKv), ones3(decode.kRope)];
  const decodeOp = (...[qLatent, qRope, cKv, kRope1]: tf.Tensor[]): tf.Tensor =>
    mlaDecode(
      qLatent as tf.Tensor4D,
      qRope as tf.Tensor4D,
      cKv as tf.Tensor3D,
      kRope1 as tf.Tensor3D,
      decodeOptions,
    );
  const gradients = [
    ...tf.grads((...x) => tf.sum(attend(...x)))([q, k, v, kRope]),
    ...tf.grads((...x) => tf.sum(decodeOp(...x)))(decodeInputs),
  ];
  await Promise.all(gradients.map((gradient) => gradient.data()));
  tf.dispose([q, k, v, kRope, ...decodeInputs, ...gradients]);
}

describe('explain', () => {
  onEachDevice(({ backend }) => {
    for (const [op, names] of Object.entries(kernels)) {
      for (const kernel of names) {
        it(`names the kernel, the lane and the reasons: ${kernel}`, () => {
          const plan =
            op === 'mlaDecode'
              ? explain('mlaDecode', decode, decodeOptions, kernel)
              : explain('mlaAttention', attention, {}, kernel);
          const { kernel: name, backend: where, lane, computePrecision } = plan;
          expectEqual([name, where, computePrecision], [kernel, backend, 'float32']);
          expectTrue(lanes[backend].includes(lane), `no lane of ${backend}: ${lane}`);
          for (const { candidate, reason } of plan.passedOver) {
            expectTrue(
              candidate !== '' && reason !== '',
              `a candidate without reason: ${candidate} ${reason}`,
            );
          }
        });
      }
    }

    it('is about the forward unless told otherwise', () => {
      expectEqual(explain('mlaAttention', attention).kernel, 'MLAAttention');
      expectEqual(explain('mlaDecode', decode, decodeOptions).kernel, 'MLADecode');
    });

    it('runs nothing', async () => {
      const { numTensors } = tf.memory();
      const { kernels: ran } = await tf.profile(() => {
        explain('mlaAttention', attention);
        return tf.scalar(0);
      });
      expectEqual([ran.length, tf.memory().numTensors], [0, numTensors + 1]);
    });

    if (backend === 'cpu') {
      it('says on cpu that narrow precisions are computed in float32', () => {
        expectEqual(explain('mlaAttention', attention, { precision: 'bfloat16' }), {
          kernel: 'MLAAttention',
          backend: 'cpu',
          lane: 'reference',
          computePrecision: 'float32',
          tile: {},
          cacheKey: '',
          passedOver: [
            { candidate: 'bfloat16', reason: 'the cpu backend computes in float32, with float64 sums' },
          ],
        });
        expectEqual(explain('mlaAttention', attention, { precision: 'auto' }).passedOver, []);
      });
      return;
    }

    if (backend === 'wasm') {
      it('says on wasm how many threads there are, and why no more', () => {
        const { lane, tile, cacheKey, passedOver } = explain('mlaAttention', attention, {
          precision: 'float16',
        });
        if (isPage) expectEqual(lane, 'relaxed SIMD', 'lane in Chromium, which has it');
        const isShared = cacheKey.startsWith('shared');
        expectEqual(isShared, globalThis.crossOriginIsolated === true, 'shared memory');
        expectEqual(tile, { LEFT: 64, RIGHT: 64, THREADS: isShared ? threadsInIsolation : 1 });
        const candidates = passedOver.map(({ candidate }) => candidate);
        expectEqual(candidates.includes('float16'), true, 'float16 is passed over');
        expectEqual(candidates.includes('threads'), !isShared, 'threads are passed over');
      });
      return;
    }

    if (backend === 'tensorflow' && (tf.backend() as TensorflowBackend).isUsingGpuDevice) return;

    if (backend === 'tensorflow') {
      it('says on tensorflow what the CPU kernels use, and that narrow precisions are computed in float32', () => {
        const { lane, tile, passedOver } = explain('mlaAttention', attention, { precision: 'bfloat16' });
        expectTrue(tile.THREADS >= 1, `expected threads, got ${tile.THREADS}`);
        expectTrue(lanes.tensorflow.includes(lane), `no instruction set: ${lane}`);
        expectEqual(passedOver, [
          { candidate: 'bfloat16', reason: "TensorFlow's CPU device computes in float32" },
        ]);
      });
      return;
    }

    it('says on webgpu which lane runs, and why no other', () => {
      const lanesOf = (precision: 'float32' | 'float16'): (string | undefined)[] => {
        const { lane, computePrecision, passedOver } = explain('mlaAttention', attention, { precision });
        const reasons = new Map(passedOver.map(({ candidate, reason }) => [candidate, reason]));
        return [lane, computePrecision, ...['T2', 'T1s', 'T1'].map((name) => reasons.get(name))];
      };
      const noSubgroups = 'the device has no subgroups';
      const narrow = "precision 'float32' wants float32 operands";
      expectEqual(lanesOf('float32'), ['T1', 'float32', narrow, noSubgroups, undefined]);
      expectEqual(lanesOf('float16'), ['T2', 'float16', undefined, noSubgroups, 'T2 goes first']);
    });

    it('says of the whole backward what its first kernel runs with', () => {
      const of = (kernel: KernelName): unknown[] => {
        const { lane, tile, cacheKey } = explain('mlaAttention', attention, { precision: 'float16' }, kernel);
        return [lane, tile, cacheKey];
      };
      expectEqual(of('MLAAttentionBackward'), of('MLAAttentionDkv'));
    });

    it('has the cache keys of the pipelines that the dispatch then compiles', async () => {
      const { device } = tf.backend() as WebGPUBackend;
      const before = new Set(compiledKeys(device));
      const expected = [
        ...kernels.mlaAttention.map((kernel) => explain('mlaAttention', attention, {}, kernel)),
        ...kernels.mlaDecode.map((kernel) => explain('mlaDecode', decode, decodeOptions, kernel)),
      ].map(({ cacheKey }) => cacheKey);
      for (const key of expected) expectTrue(!before.has(key), `already there: ${key}`);
      await runBoth();
      const added = compiledKeys(device).filter((key) => !before.has(key));
      const ours = added.filter((key) =>
        ([...kernels.mlaAttention, ...kernels.mlaDecode] as string[]).includes(nameIn(key)),
      );
      expectEqual([...ours].sort(), [...expected].sort(), 'cache keys');
    });

    it('has one pipeline for all lengths', async () => {
      const { device } = tf.backend() as WebGPUBackend;
      const options = { causal: true, kvLengths: [3] };
      const q = ones4([1, 3, 2, 44]);
      const run = async (skv: number, length: number): Promise<void> => {
        const [k, v] = [ones4([1, skv, 2, 44]), ones4([1, skv, 2, 20])];
        const out = mlaAttention(q, k, v, { ...options, kvLengths: [length] });
        await out.data();
        tf.dispose([k, v, out]);
      };
      await run(9, 3);
      const before = compiledKeys(device).length;
      await run(9, 9);
      await run(11, 7);
      expectEqual(compiledKeys(device).length, before, 'pipelines');
      q.dispose();
    });
  });
});

/** A cache key begins with the kernel's name. */
function nameIn(cacheKey: string): Exclude<KernelName, 'MLADelta' | 'MLACacheAppend'> {
  return cacheKey.split(' ')[0] as 'MLAAttention';
}
