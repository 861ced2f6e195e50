/** How each kernel would run on a device: the record that explain() shows and the dispatch uses. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { backend as currentBackend } from '@tensorflow/tfjs-core';
import { bucketOf } from '../../src/core/bucket.js';
import { fail } from '../../src/core/errors.js';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { Plan, Planner } from '../../src/core/register.js';
import { findingOf, withTimes } from '../../src/core/tuner.js';
import { capabilitiesOf } from './capabilities.js';
import type { Capabilities } from './capabilities.js';
import { mergeBindings, mergeSplitsWgsl } from './mergeSplits.js';
import { forwardBindings, forwardConstants, forwardWork, mlaAttentionWgsl } from './mlaAttention.js';
import { dkvBindings, dkvWork, mlaAttentionDkvWgsl } from './mlaAttentionDkv.js';
import { dqBindings, dqWork, mlaAttentionDqWgsl } from './mlaAttentionDq.js';
import { copyBindings, mlaCacheAppendWgsl } from './mlaCacheAppend.js';
import { deltaBindings, mlaDeltaWgsl } from './mlaDelta.js';
import type { DeltaConstants } from './mlaDelta.js';
import { operandConstants } from './operands.js';
import type { Binding } from './operands.js';
import { packBindings, packStatsWgsl } from './packStats.js';
import { compile } from './pipeline.js';
import type { Shader } from './pipeline.js';
import { sumBindings, sumPartsWgsl } from './sumParts.js';
import { chooseTile, nameOf, splitsOf } from './tiles.js';
import type { Choice, Tile, TileWork } from './tiles.js';

export const backendName = 'webgpu';

/** A shader with the names of its bindings. */
export interface NamedShader extends Shader {
  bindings: Binding[];
}

/** One kernel on one device. */
export interface KernelPlan extends Choice {
  /** parts of the walk over keys, each a workgroup of its own */
  splits: number;
  main: NamedShader;
}

export function planForward(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = forwardConstants(problem);
  return planTiles(kernel, problem, device, forwardWork(problem), forwardBindings(record), record, (tile) =>
    mlaAttentionWgsl(record, tile),
  );
}

export function planDq(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = operandConstants(problem);
  return planTiles(kernel, problem, device, dqWork(problem), dqBindings(record), record, (tile) =>
    mlaAttentionDqWgsl(record, tile),
  );
}

export function planDkv(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = operandConstants(problem);
  const choice = tileFor(kernel, problem, dkvWork(problem), device);
  const { tile } = choice;
  const main = tileShader(kernel, record, tile, dkvBindings(record), () => mlaAttentionDkvWgsl(record, tile));
  return { ...choice, splits: 1, main };
}

function planTiles(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  work: TileWork,
  bindings: Binding[],
  record: object,
  wgsl: (tile: Tile) => string,
): KernelPlan {
  const choice = tileFor(kernel, problem, work, device);
  const { tile } = choice;
  const main = tileShader(kernel, record, tile, bindings, () => wgsl(tile));
  return { ...choice, splits: splitsOf(tile, work), main };
}

/** Tiles of packed rows a key/value head has. */
export function tilesOf({ sq, hq, hkv }: MlaProblem, { LEFT }: Tile): number {
  return hkv === 0 ? 0 : Math.ceil((sq * (hq / hkv)) / LEFT);
}

/** The tile that was the fastest when it was timed here, else the one that the cost model thinks cheapest. */
function tileFor(kernel: KernelName, problem: MlaProblem, work: TileWork, device: Capabilities): Choice {
  const { key, limits } = device;
  const finding =
    key === undefined ? undefined : findingOf({ device: key, kernel, bucket: bucketOf(problem) });
  try {
    const choice = chooseTile(work, limits, finding?.winner);
    return { ...choice, passedOver: withTimes(choice.passedOver, nameOf(choice.tile), finding) };
  } catch (error) {
    fail(kernel, error instanceof Error ? error.message : String(error));
  }
}

function tileShader(
  kernel: KernelName,
  record: object,
  { LEFT, RIGHT, THREADS, CHUNK }: Tile,
  bindings: Binding[],
  wgsl: () => string,
): NamedShader {
  return named(kernel, { ...record, LEFT, RIGHT, THREADS, CHUNK }, bindings, wgsl);
}

function named(name: string, record: object, bindings: Binding[], wgsl: () => string): NamedShader {
  return {
    cacheKey: `${name} ${JSON.stringify(record)}`,
    bindings,
    access: bindings.map(({ access }) => access),
    wgsl,
  };
}

export function mergeShader({ dv }: MlaProblem): NamedShader {
  const record = { DV: dv };
  return named('mergeSplits', record, mergeBindings, () => mergeSplitsWgsl(record));
}

export function packShader(problem: MlaProblem): NamedShader {
  const { GROUP, HAS_Q_LENGTHS, HAS_KV_LENGTHS } = forwardConstants(problem);
  const record = { GROUP, HAS_Q_LENGTHS, HAS_KV_LENGTHS };
  return named('packStats', record, packBindings(record), () => packStatsWgsl(record));
}

export const sumShader: NamedShader = named('sumParts', {}, sumBindings, sumPartsWgsl);

export const copyShader: NamedShader = named(names.MLACacheAppend, {}, copyBindings, mlaCacheAppendWgsl);

export function deltaShader({ dv, returnLse }: MlaProblem): NamedShader {
  const record: DeltaConstants = { DV: dv, IS_VEC4: dv % 4 === 0 ? 1 : 0, HAS_D_LSE: returnLse ? 1 : 0 };
  return named(names.MLADelta, record, deltaBindings(record), () => mlaDeltaWgsl(record));
}

/** Every shader that a kernel dispatches, its own first. */
export function shadersOf(kernel: KernelName, problem: MlaProblem, device: Capabilities): NamedShader[] {
  switch (kernel) {
    case names.MLAAttention:
    case names.MLADecode: {
      const { main, splits } = planForward(kernel, problem, device);
      return splits > 1 ? [main, mergeShader(problem)] : [main];
    }
    case names.MLAAttentionDq:
    case names.MLADecodeDq: {
      const { main, splits } = planDq(kernel, problem, device);
      return splits > 1 ? [main, packShader(problem), sumShader] : [main, packShader(problem)];
    }
    case names.MLAAttentionDkv:
    case names.MLADecodeDkv:
      return [planDkv(kernel, problem, device).main, packShader(problem), sumShader];
    case names.MLADelta:
      return [deltaShader(problem)];
    case names.MLACacheAppend:
      return [copyShader];
  }
}

/** The plan of a kernel that has a choice; MLADelta and MLACacheAppend have none. */
export function kernelPlan(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
): KernelPlan | undefined {
  switch (kernel) {
    case names.MLAAttention:
    case names.MLADecode:
      return planForward(kernel, problem, device);
    case names.MLAAttentionDq:
    case names.MLADecodeDq:
      return planDq(kernel, problem, device);
    case names.MLAAttentionDkv:
    case names.MLADecodeDkv:
      return planDkv(kernel, problem, device);
    default:
      return undefined;
  }
}

/** Throws for what WebGPU cannot compute in; what is computed in more than was asked for is said by explain(). */
export function checkDevicePrecision(kernel: KernelName, { precision }: MlaProblem): void {
  if (precision === 'bfloat16' || precision === 'tf32') {
    fail(
      kernel,
      `required: precision '${precision}', supported by WebGPU: float32, float16, auto; missing: ${precision} is not part of WebGPU. 'auto' would work`,
    );
  }
}

export const planner: Planner = {
  plan(kernel: KernelName, problem: MlaProblem): Plan {
    checkDevicePrecision(kernel, problem);
    const device = capabilitiesOf(deviceOf());
    const known = kernelPlan(kernel, problem, device);
    const [main] = shadersOf(kernel, problem, device);
    const { LEFT, RIGHT, THREADS, CHUNK, bytes, registers } = known?.tile ?? ({} as Partial<Tile>);
    const passedOver = [...(known?.passedOver ?? [])];
    if (problem.precision !== 'float32') {
      const reason = 'no float16 lane yet: computed in float32, within the float16 bounds';
      passedOver.unshift({ candidate: 'float16', reason });
    }
    return {
      kernel,
      backend: backendName,
      lane: 'T1',
      computePrecision: 'float32',
      tile: known ? definedOnly({ LEFT, RIGHT, THREADS, CHUNK, bytes, registers, splits: known.splits }) : {},
      cacheKey: main.cacheKey,
      passedOver,
    };
  },
  async compile({ kernel }: Plan, problem: MlaProblem): Promise<void> {
    const device = deviceOf();
    await Promise.all(
      shadersOf(kernel, problem, capabilitiesOf(device)).map((shader) => compile(device, shader)),
    );
  },
};

function definedOnly(record: Record<string, number | undefined>): Record<string, number> {
  return Object.fromEntries(
    Object.entries(record).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
}

function deviceOf(): GPUDevice {
  return (currentBackend() as WebGPUBackend).device;
}
