/** Which lane a kernel takes on webgpu, for devices of every sort: without any of them. */
import { knownMatrices } from '../kernels/webgpu/capabilities.js';
import type { Capabilities } from '../kernels/webgpu/capabilities.js';
import { kernelPlan, planDkv, planDq, planForward } from '../kernels/webgpu/plans.js';
import type { MlaProblem } from '../src/core/problem.js';
import type { Precision } from '../src/index.js';
import { attentionCases, decodeCases } from './cases.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { problemOf } from './support/inputs.js';

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

  it('tiles go through the heads first, so that the longest walks of all begin first', () => {
    const [grouped] = attentionCases.filter(({ name }) => name === 'grouped 257 on 385');
    const problem = problemOf(grouped);
    const { b, hkv } = problem;
    const forward = planForward('MLAAttention', problem, device);
    const { tiles, splits } = forward.cut;
    expectTrue(tiles > 1, `${tiles} tiles`);
    expectEqual(forward.grid, [hkv, b * splits, tiles]);
    const dq = planDq('MLAAttentionDq', problem, device);
    expectEqual(dq.grid, [hkv, b * dq.cut.splits, dq.cut.tiles]);
    const dkv = planDkv('MLAAttentionDkv', problem, device);
    expectEqual(dkv.grid, [hkv, b, dkv.cut.tiles]);
  });
});
