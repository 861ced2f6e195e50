/** How each kernel would run on a device: the record that explain() shows and the dispatch uses. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { backend as currentBackend } from '@tensorflow/tfjs-core';
import { bucketOf } from '../../src/core/bucket.js';
import { fail } from '../../src/core/errors.js';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { PassedOver, Plan, Planner } from '../../src/core/register.js';
import { findingOf, withTimes } from '../../src/core/tuner.js';
import { capabilitiesOf, isMatrixLane, laneConstants, lanesFor } from './capabilities.js';
import type { Capabilities, Lane, LaneConstants, MatrixLane } from './capabilities.js';
import {
  planMatrixBackward,
  planMatrixDecode,
  planMatrixGradient,
  planMatrixForward,
  whyNoMatrices,
} from './matrix/plans.js';
import { forwardBindings, forwardConstants, forwardWork, mlaAttentionWgsl } from './mlaAttention.js';
import { dkvBindings, dkvWork, mlaAttentionDkvWgsl } from './mlaAttentionDkv.js';
import { dqBindings, dqWork, mlaAttentionDqWgsl } from './mlaAttentionDq.js';
import { operandConstants } from './operands.js';
import type { Binding } from './operands.js';
import { compile } from './pipeline.js';
import { named } from './namedShader.js';
import type { NamedShader } from './namedShader.js';
import type { Cut } from './problemUniforms.js';
import { remembered } from './planMemo.js';
import { copyShader, deltaShader, mergeShader, packShader, sumShader } from './smallShaders.js';
import { chooseTile, hasHalves, nameOf, splitsOf, tilesOf } from './tiles.js';
import type { Tile, TileWork } from './tiles.js';

export const backendName = 'webgpu';

export type Grid = [number, number, number];

/** One kernel on one device. */
export interface KernelPlan {
  lane: Lane;
  /** the tile by its constants, as explain() shows it */
  tile: Record<string, number>;
  cut: Cut;
  grid: Grid;
  passedOver: PassedOver[];
  /** its own name; those of its lane that would run too, the usual one first, and the usual ones of lanes behind it */
  candidate: string;
  candidates: string[];
  main: NamedShader;
  /** whether rows of statistics have a scale for dOut; in lane T2 …Dkv stages it as halves */
  hasScales?: boolean;
  /** what runs before it, and how many numbers each binding has that it fills; lane T3 only */
  before: { shader: NamedShader; grid: Grid }[];
  scratch: Record<string, number>;
}

type PlanInLane = (lane: Lane, prefer?: string) => KernelPlan | string;

/** firstLane(), made once for equal calls. */
function planned(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  planIn: PlanInLane,
): KernelPlan {
  return remembered(kernel, problem, device, () => firstLane(kernel, problem, device, planIn));
}

/**
 * What was the fastest when it was timed here, else the first lane that can run a problem; and why the others do not.
 * Candidates are known by their lane and name.
 */
function firstLane(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  planIn: PlanInLane,
): KernelPlan {
  const { lanes, passedOver } = lanesFor(problem.precision, device);
  const finding =
    device.key === undefined
      ? undefined
      : findingOf({ device: device.key, kernel, bucket: bucketOf(problem) });
  const [winnerLane, ...winnerName] = finding?.winner.split(' ') ?? [];
  const plan: PlanInLane = (lane) => {
    const known = planIn(lane, lane === winnerLane ? winnerName.join(' ') : undefined);
    return typeof known === 'string' ? known : withLane(lane, known);
  };
  const order = [...lanes].sort((a, b) => Number(b === winnerLane) - Number(a === winnerLane));
  for (const lane of order) {
    const known = plan(lane);
    if (typeof known === 'string') {
      passedOver.push({ candidate: lane, reason: known });
      continue;
    }
    const isWinner = known.candidate === finding?.winner;
    const others = order.slice(order.indexOf(lane) + 1);
    const later = others.map((candidate) => ({
      candidate,
      reason: isWinner ? `${lane} was faster when it was timed` : `${lane} goes first`,
    }));
    const all = [...passedOver, ...later, ...known.passedOver];
    // of the lanes behind it the tuner times the usual candidate
    const usual = others
      .map((other) => plan(other))
      .flatMap((other) => (typeof other === 'string' ? [] : [other.candidate]));
    return {
      ...known,
      candidates: [...known.candidates, ...usual],
      passedOver: withTimes(all, known.candidate, finding),
    };
  }
  fail(kernel, passedOver.map(({ candidate, reason }) => `${candidate}: ${reason}`).join('; '));
}

function withLane(lane: Lane, plan: KernelPlan): KernelPlan {
  const inLane = (name: string): string => `${lane} ${name}`;
  return {
    ...plan,
    candidate: inLane(plan.candidate),
    candidates: plan.candidates.map(inLane),
    passedOver: plan.passedOver.map(({ candidate, reason }) => ({ candidate: inLane(candidate), reason })),
  };
}

export function planForward(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = forwardConstants(problem);
  const tiles = {
    record,
    bindings: forwardBindings(record),
    work: (lane: LaneConstants) => forwardWork(problem, lane),
    wgsl: (tile: Tile) => mlaAttentionWgsl(record, tile),
  };
  return planned(kernel, problem, device, (lane, prefer) =>
    isMatrixLane(lane)
      ? (whyNoMatrices(problem) ??
        (problem.op === 'mlaDecode'
          ? planMatrixDecode(lane, kernel, problem, device, prefer)
          : planMatrixForward(lane, kernel, problem, device, prefer)))
      : planTiles(kernel, problem, device, lane, tiles, prefer),
  );
}

export function planDq(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = operandConstants(problem);
  const tiles = {
    record,
    bindings: dqBindings(record),
    work: (lane: LaneConstants) => dqWork(problem, lane),
    wgsl: (tile: Tile) => mlaAttentionDqWgsl(record, tile),
  };
  return planned(kernel, problem, device, (lane, prefer) =>
    isMatrixLane(lane)
      ? (whyNoMatrices(problem) ?? planMatrixGradient(lane, kernel, problem, device))
      : planTiles(kernel, problem, device, lane, tiles, prefer),
  );
}

export function planDkv(kernel: KernelName, problem: MlaProblem, device: Capabilities): KernelPlan {
  const record = operandConstants(problem);
  const tiles = {
    record,
    bindings: dkvBindings(record),
    work: (lane: LaneConstants) => dkvWork(problem, lane),
    wgsl: (tile: Tile) => mlaAttentionDkvWgsl(record, tile),
  };
  return planned(kernel, problem, device, (lane, prefer) => {
    if (isMatrixLane(lane)) {
      return whyNoMatrices(problem) ?? planMatrixGradient(lane, kernel, problem, device);
    }
    const plan = planTiles(kernel, problem, device, lane, tiles, prefer);
    if (typeof plan === 'string') return plan;
    // its tiles are of keys
    const keyTiles = Math.ceil(problem.skv / plan.tile.LEFT);
    const cut = { tiles: keyTiles, splits: 1 };
    return { ...plan, cut, grid: [problem.hkv, problem.b, keyTiles], hasScales: lane === 'T2' };
  });
}

/** A tile kernel before its lane and its tile are known. */
interface TileKernel {
  record: object;
  bindings: Binding[];
  work: (lane: LaneConstants) => TileWork;
  wgsl: (tile: Tile) => string;
}

/** How a kernel runs in one of the lanes of tiles, or why it does not. */
function planTiles(
  kernel: KernelName,
  problem: MlaProblem,
  device: Capabilities,
  lane: Exclude<Lane, MatrixLane>,
  { record, bindings, work: workIn, wgsl }: TileKernel,
  prefer?: string,
): KernelPlan | string {
  const work = workIn(laneConstants(lane, device));
  if (lane === 'T1s' && !work.reducesRows) return 'no rows to reduce: T1 is the same';
  try {
    const { tile, passedOver, candidates } = chooseTile(work, device.limits, prefer);
    const { LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS, bytes, registers } = tile;
    const splits = splitsOf(tile, work);
    const tiles = tilesOf(problem, LEFT);
    return {
      lane,
      tile: { LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS, bytes, registers },
      cut: { tiles, splits },
      grid: [problem.hkv, problem.b * splits, tiles],
      passedOver,
      candidate: nameOf(tile),
      candidates,
      main: tileShader(kernel, record, tile, bindings, () => wgsl(tile)),
      before: [],
      scratch: {},
    };
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
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

/** Every shader that a kernel dispatches, its own first. */
export function shadersOf(kernel: KernelName, problem: MlaProblem, device: Capabilities): NamedShader[] {
  if (kernel === names.MLAAttentionBackward) {
    const joined = planMatrixBackward(problem, device);
    if (!joined) {
      const parts = [names.MLAAttentionDkv, names.MLAAttentionDq, names.MLADelta] as const;
      return parts.flatMap((part) => shadersOf(part, problem, device));
    }
    const before = [deltaShader(problem), ...joined.plan.before.map(({ shader }) => shader)];
    return [joined.plan.main, joined.dq, ...before, packShader(problem, false), sumShader];
  }
  const plan = kernelPlan(kernel, problem, device);
  if (!plan) return [kernel === names.MLADelta ? deltaShader(problem) : copyShader(problem.cacheFormat)];
  const shaders = [plan.main, ...plan.before.map(({ shader }) => shader)];
  if (kernel === names.MLAAttention || kernel === names.MLADecode) {
    return plan.cut.splits > 1 ? [...shaders, mergeShader(problem, plan.cut)] : shaders;
  }
  const isDkv = kernel === names.MLAAttentionDkv || kernel === names.MLADecodeDkv;
  shaders.push(packShader(problem, plan.hasScales ?? false));
  return isDkv || plan.cut.splits > 1 ? [...shaders, sumShader] : shaders;
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
    case names.MLAAttentionBackward:
      // without it …Dkv runs first, and then …Dq
      return planMatrixBackward(problem, device)?.plan ?? planDkv(names.MLAAttentionDkv, problem, device);
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
  // in narrow operands there is work to share
  isBackwardJoined: ({ precision }) => precision !== 'float32',
  plan(kernel: KernelName, problem: MlaProblem): Plan {
    checkDevicePrecision(kernel, problem);
    const device = capabilitiesOf(deviceOf());
    const known = kernelPlan(kernel, problem, device);
    const [main] = shadersOf(kernel, problem, device);
    const lane = known?.lane ?? 'T1';
    return {
      kernel,
      backend: backendName,
      lane,
      computePrecision: lane === 'T2' || lane === 'T3' ? 'float16' : 'float32',
      tile: known ? { ...known.tile, splits: known.cut.splits } : {},
      cacheKey: main.cacheKey,
      passedOver: known?.passedOver ?? [],
    };
  },
  async compile({ kernel }: Plan, problem: MlaProblem): Promise<void> {
    const device = deviceOf();
    await Promise.all(
      shadersOf(kernel, problem, capabilitiesOf(device)).map((shader) => compile(device, shader)),
    );
  },
};

function deviceOf(): GPUDevice {
  return (currentBackend() as WebGPUBackend).device;
}
