/** How each kernel would run on a device: the record that explain() shows and the dispatch uses. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { backend as currentBackend } from '@tensorflow/tfjs-core';
import { fail } from '../../src/core/errors.js';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { Plan, Planner } from '../../src/core/register.js';
import { capabilitiesOf, laneConstants, lanesFor } from './capabilities.js';
import type { Capabilities, Lane, LaneConstants } from './capabilities.js';
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
import { chooseTile, hasHalves, splitsOf } from './tiles.js';
import type { Choice, Tile, TileWork } from './tiles.js';

export const backendName = 'webgpu';

/** A shader with the names of its bindings. */
export interface NamedShader extends Shader {
  bindings: Binding[];
}

/** One kernel on one device, in the first of its lanes that is legal there. */
export interface KernelPlan extends Choice {
  lane: Lane;
  /** parts of the walk over keys, each a workgroup of its own */
  splits: number;
  main: NamedShader;
}

export function planForward(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = forwardConstants(problem);
  return planTiles(kernel, problem, device, {
    record,
    bindings: forwardBindings(record),
    work: (lane) => forwardWork(problem, lane),
    wgsl: (tile) => mlaAttentionWgsl(record, tile),
  });
}

export function planDq(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = operandConstants(problem);
  return planTiles(kernel, problem, device, {
    record,
    bindings: dqBindings(record),
    work: (lane) => dqWork(problem, lane),
    wgsl: (tile) => mlaAttentionDqWgsl(record, tile),
  });
}

export function planDkv(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = operandConstants(problem);
  return planTiles(kernel, problem, device, {
    record,
    bindings: dkvBindings(record),
    work: (lane) => dkvWork(problem, lane),
    wgsl: (tile) => mlaAttentionDkvWgsl(record, tile),
  });
}

/** A tile kernel before its lane and its tile are known. */
interface TileKernel {
  record: object;
  bindings: Binding[];
  work: (lane: LaneConstants) => TileWork;
  wgsl: (tile: Tile) => string;
}

function planTiles(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  tileKernel: TileKernel,
): KernelPlan {
  const { lanes, passedOver } = lanesFor(problem.precision, device);
  for (const [index, lane] of lanes.entries()) {
    const plan = lane === 'T3' ? 'not written yet' : planInLane(kernel, lane, device, tileKernel);
    if (typeof plan === 'string') {
      passedOver.push({ candidate: lane, reason: plan });
      continue;
    }
    const slower = lanes.slice(index + 1).map((candidate) => ({ candidate, reason: `${lane} goes first` }));
    return { ...plan, passedOver: [...passedOver, ...slower, ...plan.passedOver] };
  }
  fail(kernel, passedOver.map(({ candidate, reason }) => `${candidate}: ${reason}`).join('; '));
}

/** Or why the lane does not run. */
function planInLane(
  kernel: KernelName,
  lane: 'T1' | 'T1s' | 'T2',
  device: Capabilities,
  { record, bindings, work: workIn, wgsl }: TileKernel,
): KernelPlan | string {
  const work = workIn(laneConstants(lane, device));
  if (lane === 'T1s' && !work.reducesRows) return 'no rows to reduce: T1 is the same';
  try {
    const choice = chooseTile(work, device.limits);
    const { tile } = choice;
    const main = tileShader(kernel, record, tile, bindings, () => wgsl(tile));
    return { ...choice, lane, splits: splitsOf(tile, work), main };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** Tiles of packed rows a key/value head has. */
export function tilesOf({ sq, hq, hkv }: MlaProblem, { LEFT }: Tile): number {
  return hkv === 0 ? 0 : Math.ceil((sq * (hq / hkv)) / LEFT);
}

function tileShader(
  kernel: KernelName,
  record: object,
  tile: Tile,
  bindings: Binding[],
  wgsl: () => string,
): NamedShader {
  const { rowLanes: SUBGROUP, LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS } = tile;
  const HALVES = hasHalves(tile) ? 1 : 0;
  const key = { ...record, SUBGROUP, HALVES, LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS };
  return named(kernel, key, bindings, wgsl);
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

/** What goes before the backward in a tile. */
export function packShader(problem: MlaProblem, tile: Tile): NamedShader {
  const { GROUP, HAS_Q_LENGTHS, HAS_KV_LENGTHS } = forwardConstants(problem);
  const scales = hasHalves(tile) ? { DV: problem.dv, IS_VEC4: problem.dv % 4 === 0 ? 1 : 0 } : undefined;
  const record = { GROUP, HAS_Q_LENGTHS, HAS_KV_LENGTHS, scales };
  return named('packStats', record, packBindings(record), () => packStatsWgsl(record));
}

export const sumShader: NamedShader = named('sumParts', {}, sumBindings, sumPartsWgsl);

export const copyShader: NamedShader = named(names.MLACacheAppend, {}, copyBindings, mlaCacheAppendWgsl);

export function deltaShader({ dv, returnLse }: MlaProblem): NamedShader {
  const record: DeltaConstants = { DV: dv, IS_VEC4: dv % 4 === 0 ? 1 : 0, HAS_D_LSE: returnLse ? 1 : 0 };
  return named(names.MLADelta, record, deltaBindings(record), () => mlaDeltaWgsl(record));
}

/** Every shader that a kernel dispatches, its own first. */
function shadersOf(kernel: KernelName, problem: MlaProblem, device: Capabilities): NamedShader[] {
  switch (kernel) {
    case names.MLAAttention:
    case names.MLADecode: {
      const { main, splits } = planForward(kernel, problem, device);
      return splits > 1 ? [main, mergeShader(problem)] : [main];
    }
    case names.MLAAttentionDq:
    case names.MLADecodeDq: {
      const plan = planDq(kernel, problem, device);
      const { main, splits } = plan;
      return splits > 1
        ? [main, packShader(problem, plan.tile), sumShader]
        : [main, packShader(problem, plan.tile)];
    }
    case names.MLAAttentionDkv:
    case names.MLADecodeDkv: {
      const plan = planDkv(kernel, problem, device);
      return [plan.main, packShader(problem, plan.tile), sumShader];
    }
    case names.MLADelta:
      return [deltaShader(problem)];
    case names.MLACacheAppend:
      return [copyShader];
  }
}

function kernelPlan(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan | undefined {
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
    const passedOver = [...(known?.passedOver ?? [])];
    if (!known && problem.precision !== 'float32') {
      passedOver.push({ candidate: 'float16', reason: 'no products of matrices: computed in float32' });
    }
    return {
      kernel,
      backend: backendName,
      lane: known?.lane ?? 'T1',
      computePrecision: known && hasHalves(known.tile) ? 'float16' : 'float32',
      tile: known ? shownOf(known) : {},
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

function shownOf({ tile, splits }: KernelPlan): Record<string, number> {
  const { LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS, bytes, registers } = tile;
  return { LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS, bytes, registers, splits };
}

function deviceOf(): GPUDevice {
  return (currentBackend() as WebGPUBackend).device;
}
