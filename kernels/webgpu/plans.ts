/** How each kernel would run on a device: the record that explain() shows and the dispatch uses. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { backend as currentBackend } from '@tensorflow/tfjs-core';
import type { CacheFormat } from '../../src/core/cacheFormat.js';
import { fail } from '../../src/core/errors.js';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { PassedOver, Plan, Planner } from '../../src/core/register.js';
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
import { chooseTile, splitsOf } from './tiles.js';
import type { DeviceLimits, Tile, TileWork } from './tiles.js';

export const backendName = 'webgpu';

/** A shader with the names of its bindings. */
export interface NamedShader extends Shader {
  bindings: Binding[];
}

/** One kernel on one device. */
export interface KernelPlan {
  tile: Tile;
  /** parts of the walk over keys, each a workgroup of its own */
  splits: number;
  passedOver: PassedOver[];
  main: NamedShader;
}

export function planForward(kernel: KernelName, problem: MlaProblem, limits: DeviceLimits): KernelPlan {
  const record = forwardConstants(problem);
  return planTiles(kernel, limits, forwardWork(problem), forwardBindings(record), record, (tile) =>
    mlaAttentionWgsl(record, tile),
  );
}

export function planDq(kernel: KernelName, problem: MlaProblem, limits: DeviceLimits): KernelPlan {
  const record = operandConstants(problem);
  return planTiles(kernel, limits, dqWork(problem), dqBindings(record), record, (tile) =>
    mlaAttentionDqWgsl(record, tile),
  );
}

export function planDkv(kernel: KernelName, problem: MlaProblem, limits: DeviceLimits): KernelPlan {
  const record = operandConstants(problem);
  const { tile, passedOver } = tileFor(kernel, dkvWork(problem), limits);
  const main = tileShader(kernel, record, tile, dkvBindings(record), () => mlaAttentionDkvWgsl(record, tile));
  return { tile, splits: 1, passedOver, main };
}

function planTiles(
  kernel: KernelName,
  limits: DeviceLimits,
  work: TileWork,
  bindings: Binding[],
  record: object,
  wgsl: (tile: Tile) => string,
): KernelPlan {
  const { tile, passedOver } = tileFor(kernel, work, limits);
  const main = tileShader(kernel, record, tile, bindings, () => wgsl(tile));
  return { tile, splits: splitsOf(tile, work), passedOver, main };
}

/** Tiles of packed rows a key/value head has. */
export function tilesOf({ sq, hq, hkv }: MlaProblem, { LEFT }: Tile): number {
  return hkv === 0 ? 0 : Math.ceil((sq * (hq / hkv)) / LEFT);
}

function tileFor(kernel: KernelName, work: TileWork, limits: DeviceLimits): ReturnType<typeof chooseTile> {
  try {
    return chooseTile(work, limits);
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

export function copyShader(format: CacheFormat): NamedShader {
  const record = { IS_PACKED: format === 'float16' ? 1 : 0 };
  return named(names.MLACacheAppend, record, copyBindings, () => mlaCacheAppendWgsl(record));
}

export function deltaShader({ dv, returnLse }: MlaProblem): NamedShader {
  const record: DeltaConstants = { DV: dv, IS_VEC4: dv % 4 === 0 ? 1 : 0, HAS_D_LSE: returnLse ? 1 : 0 };
  return named(names.MLADelta, record, deltaBindings(record), () => mlaDeltaWgsl(record));
}

/** Every shader that a kernel dispatches, its own first. */
function shadersOf(kernel: KernelName, problem: MlaProblem, limits: DeviceLimits): NamedShader[] {
  switch (kernel) {
    case names.MLAAttention:
    case names.MLADecode: {
      const { main, splits } = planForward(kernel, problem, limits);
      return splits > 1 ? [main, mergeShader(problem)] : [main];
    }
    case names.MLAAttentionDq:
    case names.MLADecodeDq: {
      const { main, splits } = planDq(kernel, problem, limits);
      return splits > 1 ? [main, packShader(problem), sumShader] : [main, packShader(problem)];
    }
    case names.MLAAttentionDkv:
    case names.MLADecodeDkv:
      return [planDkv(kernel, problem, limits).main, packShader(problem), sumShader];
    case names.MLADelta:
      return [deltaShader(problem)];
    case names.MLACacheAppend:
      return [copyShader(problem.cacheFormat)];
  }
}

function kernelPlan(kernel: KernelName, problem: MlaProblem, limits: DeviceLimits): KernelPlan | undefined {
  switch (kernel) {
    case names.MLAAttention:
    case names.MLADecode:
      return planForward(kernel, problem, limits);
    case names.MLAAttentionDq:
    case names.MLADecodeDq:
      return planDq(kernel, problem, limits);
    case names.MLAAttentionDkv:
    case names.MLADecodeDkv:
      return planDkv(kernel, problem, limits);
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
  cacheFormats: ['float32', 'float16'],
  plan(kernel: KernelName, problem: MlaProblem): Plan {
    checkDevicePrecision(kernel, problem);
    const { limits } = deviceOf();
    const known = kernelPlan(kernel, problem, limits);
    const [main] = shadersOf(kernel, problem, limits);
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
    await Promise.all(shadersOf(kernel, problem, device.limits).map((shader) => compile(device, shader)));
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
