/** explain() tells what would run, and it is what runs. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { knownMatrices } from '../kernels/webgpu/capabilities.js';
import type { Capabilities } from '../kernels/webgpu/capabilities.js';
import { compiledKeys } from '../kernels/webgpu/pipeline.js';
import { kernelPlan, planDkv, planDq, planForward } from '../kernels/webgpu/plans.js';
import { explain, mlaAttention, mlaDecode } from '../src/index.js';
import type { MlaProblem } from '../src/core/problem.js';
import type { KernelName, Precision } from '../src/index.js';
import '../src/webgpu.js';
import { attentionCases, decodeCases } from './cases.js';
import { onEachDevice, threadsInIsolation } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { problemOf } from './support/inputs.js';
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
  tensorflow: ['sse2', 'avx2', 'avx512'],
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

describe('lanes of webgpu', () => {
  const device: Capabilities = {
    limits: {
      maxComputeWorkgroupStorageSize: 16384,
      maxComputeInvocationsPerWorkgroup: 256,
      maxComputeWorkgroupSizeX: 256,
    },
    hasF16: false,
    subgroups: { min: 8, max: 32 },
    matrices: [],
  };

  /** A tile of which has rows of eight threads or more. */
  const [several] = attentionCases.filter(({ name }) => name === 'deepseek 257');

  /** Lane, what it has compiled in, and why other lanes are passed over. */
  function plan(
    kernel: 'MLAAttention' | 'MLAAttentionDq',
    precision: Precision,
    on: Capabilities,
  ): unknown[] {
    const problem = { ...problemOf(several), precision };
    const planned =
      kernel === 'MLAAttention' ? planForward(kernel, problem, on) : planDq(kernel, problem, on);
    const { lane, main, passedOver } = planned;
    const others = passedOver.filter(({ candidate }) => /^T\w+$/.test(candidate));
    const reasons = others.map(({ candidate, reason }) => `${candidate}: ${reason}`);
    return [lane, ...(main.cacheKey.match(/"SUBGROUP":\d+|"HALVES":\d/g) ?? []), ...reasons];
  }

  const narrow = "precision 'float32' wants float32 operands";
  const noMatrices = 'T3: the device has no shader-f16';
  const noSplit = 'T3x: the device has no shader-f16';
  const noNeed = 'T3x: T3 needs one half each';
  const withMatrices: Capabilities = {
    limits: { ...device.limits, maxComputeWorkgroupStorageSize: 49152 },
    hasF16: true,
    subgroups: { min: 32, max: 32 },
    matrices: knownMatrices,
  };
  const [, ofIntel, ofApple] = knownMatrices;
  const intel: Capabilities = {
    limits: { ...device.limits, maxComputeWorkgroupStorageSize: 32768 },
    hasF16: true,
    subgroups: { min: 8, max: 32, canBeSet: true },
    matrices: [ofIntel],
  };
  const apple: Capabilities = { ...intel, subgroups: { min: 32, max: 32 }, matrices: [ofApple] };

  it('T1s reduces rows by subgroups, in float32', () => {
    const others = [`T3: ${narrow}`, noSplit, `T2: ${narrow}`, 'T1: T1s goes first'];
    expectEqual(plan('MLAAttention', 'float32', device), ['T1s', '"SUBGROUP":8', '"HALVES":0', ...others]);
  });

  it('T1s is T1 where no rows are reduced', () => {
    const others = [`T3: ${narrow}`, noSplit, `T2: ${narrow}`, 'T1s: no rows to reduce: T1 is the same'];
    expectEqual(plan('MLAAttentionDq', 'float32', device), ['T1', '"SUBGROUP":1', '"HALVES":0', ...others]);
  });

  it("T2 runs for 'float16' and 'auto', with and without subgroups", () => {
    const others = [noMatrices, noNeed, 'T1s: T2 goes first', 'T1: T2 goes first'];
    const expected = ['T2', '"SUBGROUP":8', '"HALVES":1', ...others];
    expectEqual(plan('MLAAttention', 'float16', device), expected);
    expectEqual(plan('MLAAttention', 'auto', device), expected);
    const without = [noMatrices, noNeed, 'T1s: the device has no subgroups', 'T1: T2 goes first'];
    expectEqual(plan('MLAAttention', 'auto', { ...device, subgroups: undefined }), [
      ...['T2', '"SUBGROUP":1', '"HALVES":1'],
      ...without,
    ]);
  });

  it("T3x runs the forward of 'float32' where there are matrices, T1s what it does not", () => {
    const others = [`T3: ${narrow}`, `T2: ${narrow}`, 'T1s: T3x goes first', 'T1: T3x goes first'];
    expectEqual(plan('MLAAttention', 'float32', withMatrices), ['T3x', ...others]);
    const ofDq = plan('MLAAttentionDq', 'float32', withMatrices);
    const splitDq = 'T3x: written for halves in 16x16x16, not for split halves in 16x16x16';
    expectEqual([ofDq[0], ofDq.includes(splitDq)], ['T1', true]);
  });

  it('T3 runs the forward on matrices of 8x16x16 in subgroups of 16, which the shader sets', () => {
    const others = [noNeed, 'T2: T3 goes first', 'T1s: T3 goes first', 'T1: T3 goes first'];
    expectEqual(plan('MLAAttention', 'auto', intel), ['T3', ...others]);
    const ofDq = plan('MLAAttentionDq', 'auto', intel);
    const otherDq = 'T3: written for halves in 16x16x16, not for halves in 8x16x16, subgroups set to 16';
    expectEqual([ofDq[0], ofDq.includes(otherDq)], ['T2', true]);
    const unset = plan('MLAAttention', 'auto', { ...intel, subgroups: { min: 8, max: 32 } });
    const noSize = 'T3: the matrix shaders are written for subgroups of 16';
    expectEqual([unset[0], unset.includes(noSize)], ['T2', true]);
  });

  it('T3x runs the forward of every precision on matrices of float32, without shader-f16 too', () => {
    const noHalves = 'the device has no subgroup matrices of halves with float32 results';
    const others = ['T2: T3x goes first', 'T1s: T3x goes first', 'T1: T3x goes first'];
    expectEqual(plan('MLAAttention', 'auto', apple), ['T3x', `T3: ${noHalves}`, ...others]);
    const [lane] = plan('MLAAttention', 'float32', { ...apple, hasF16: false });
    expectEqual(lane, 'T3x');
    const ofDq = plan('MLAAttentionDq', 'auto', apple);
    const otherDq = 'T3x: written for halves in 16x16x16, not for floats in 8x8x8';
    expectEqual([ofDq[0], ofDq.includes(otherDq)], ['T2', true]);
  });

  it("MLAAttentionBackward is MLAAttentionDkv's plan where no matrices join the two", () => {
    const problem: MlaProblem = { ...problemOf(several), precision: 'auto' };
    const lanesOf = (on: Capabilities): unknown[] => {
      const parts = planDkv('MLAAttentionDkv', problem, on);
      const joined = kernelPlan('MLAAttentionBackward', problem, on);
      return [joined?.lane, joined?.main.cacheKey === parts.main.cacheKey];
    };
    expectEqual(lanesOf({ ...device, hasF16: true }), ['T2', true]);
    expectEqual(lanesOf(intel), ['T2', true]);
    expectEqual(lanesOf(apple), ['T2', true]);
    expectEqual(lanesOf(withMatrices), ['T3', false]);
  });

  it("mlaDecode's gradients are on matrices too, where they fit", () => {
    const [latent] = decodeCases.filter(({ name }) => name === 'deepseek');
    const matrices = { ...device, hasF16: true, subgroups: { min: 32, max: 32 }, matrices: knownMatrices };
    const planOn = (maxComputeWorkgroupStorageSize: number, given: Partial<MlaProblem> = {}): unknown[] => {
      const problem: MlaProblem = { ...problemOf(latent), precision: 'auto', ...given };
      const on = { ...matrices, limits: { ...device.limits, maxComputeWorkgroupStorageSize } };
      return [planDq('MLADecodeDq', problem, on), planDkv('MLADecodeDkv', problem, on)].map(
        ({ lane, passedOver }) => [lane, passedOver.find(({ candidate }) => candidate === 'T3')?.reason],
      );
    };
    expectEqual(planOn(49152), [
      ['T3', undefined],
      ['T3', undefined],
    ]);
    expectEqual(planOn(32768), [
      ['T3', undefined],
      ['T2', '48768 bytes of workgroup memory, the device allows 32768'],
    ]);
    const tooSmall = 'softmaxScale 0.000001 makes dS too small for halves';
    expectEqual(planOn(49152, { softmaxScale: 1e-6 }), [
      ['T2', tooSmall],
      ['T2', tooSmall],
    ]);
  });

  it('says of every lane why it has no tile', () => {
    const limits = { ...device.limits, maxComputeWorkgroupStorageSize: 1024 };
    let message = '';
    try {
      plan('MLAAttention', 'auto', { ...device, limits });
    } catch (error) {
      ({ message } = error as Error);
    }
    for (const lane of ['T2', 'T1s', 'T1']) {
      expectTrue(message.includes(`${lane}: no tile fits this device (LEFT=`), message);
    }
  });
});

/** A cache key begins with the kernel's name. */
function nameIn(cacheKey: string): Exclude<KernelName, 'MLADelta' | 'MLACacheAppend'> {
  return cacheKey.split(' ')[0] as 'MLAAttention';
}
