/** What a device can do for our shaders, and the lanes that this opens. */
import type { PassedOver } from '../../src/core/register.js';
import type { Precision } from '../../src/core/precision.js';

export interface DeviceLimits {
  maxComputeWorkgroupStorageSize: number;
  maxComputeInvocationsPerWorkgroup: number;
  maxComputeWorkgroupSizeX: number;
}

/** A shape of subgroup matrices: left [m, k] times right [k, n], the operands of one type, the result of float32. */
export interface MatrixShape {
  m: number;
  n: number;
  k: number;
  operand: 'f16' | 'f32';
  /** the size of subgroups that our shaders for it count on */
  lanes: number;
}

export interface Capabilities {
  /** what the tuner knows the device by; absent: nothing was ever timed on it */
  key?: string;
  limits: DeviceLimits;
  /** shader-f16 */
  hasF16: boolean;
  /** sizes that a subgroup may have, and whether a shader can set its own; absent without the feature */
  subgroups?: { min: number; max: number; canBeSet?: boolean };
  /** subgroup matrices with float32 results, the fastest kind first */
  matrices: MatrixShape[];
}

/**
 * T1: float32, no optional feature. T1s: the same, rows reduced by subgroups. T2: halves in workgroup memory, float32
 * products and sums, rows reduced by subgroups where there are any. T3: products on subgroup matrices of halves, float32 sums.
 * T3x: float32 on subgroup matrices, each number as two halves, or as it is where the matrices are of float32.
 */
export type Lane = 'T1' | 'T1s' | 'T2' | 'T3' | 'T3x';

/** Lanes on subgroup matrices. */
export type MatrixLane = 'T3' | 'T3x';

export function isMatrixLane(lane: Lane): lane is MatrixLane {
  return lane === 'T3' || lane === 'T3x';
}

/** What a lane of tiles compiles in. */
export interface LaneConstants {
  /** lanes that surely lie in one subgroup, for what reduces across threads; 1 without subgroups */
  SUBGROUP: number;
  /** 1 if operands are staged as halves */
  HALVES: 0 | 1;
}

/** T1 */
export const portableLane: LaneConstants = { SUBGROUP: 1, HALVES: 0 };

export function laneConstants(lane: 'T1' | 'T1s' | 'T2', { subgroups }: Capabilities): LaneConstants {
  return {
    SUBGROUP: lane === 'T1' ? 1 : (subgroups?.min ?? 1),
    HALVES: lane === 'T2' ? 1 : 0,
  };
}

/** The shapes that our shaders are written for, the fastest first: NVIDIA's, Intel's, Apple's. */
export const knownMatrices: MatrixShape[] = [
  { m: 16, n: 16, k: 16, operand: 'f16', lanes: 32 },
  { m: 8, n: 16, k: 16, operand: 'f16', lanes: 16 },
  { m: 8, n: 8, k: 8, operand: 'f32', lanes: 32 },
];

interface MatrixConfig {
  componentType: string;
  resultComponentType: string;
  M: number;
  N: number;
  K: number;
}

interface SubgroupInfo {
  subgroupMinSize?: number;
  subgroupMaxSize?: number;
  subgroupMatrixConfigs?: MatrixConfig[];
}

/** What adapters told of their devices: Dawn leaves the matrices out of device.adapterInfo. */
const told = new WeakMap<GPUDevice, SubgroupInfo>();

/** Keeps what an adapter says of itself for the devices that come from it. */
export function rememberAdapter(device: GPUDevice, info: object | undefined): void {
  if (info) told.set(device, info);
}

const known = new WeakMap<GPUDevice, Capabilities>();

/** Read once a device. */
export function capabilitiesOf(device: GPUDevice): Capabilities {
  const capabilities = known.get(device) ?? readCapabilities(device);
  known.set(device, capabilities);
  return capabilities;
}

function readCapabilities(device: GPUDevice): Capabilities {
  const has = (feature: string): boolean => device.features.has(feature);
  // the installed WebGPU types are older than adapterInfo
  const info = told.get(device) ?? (device as { adapterInfo?: SubgroupInfo }).adapterInfo ?? {};
  const { subgroupMinSize: min, subgroupMaxSize: max, subgroupMatrixConfigs: configs = [] } = info;
  const isOffered = ({ m, n, k, operand }: MatrixShape): boolean =>
    configs.some(
      ({ componentType, resultComponentType, M, N, K }) =>
        componentType === operand && resultComponentType === 'f32' && M === m && N === n && K === k,
    );
  return {
    key: keyOf(device),
    limits: device.limits,
    hasF16: has('shader-f16'),
    subgroups:
      has('subgroups') && min && max ? { min, max, canBeSet: has('subgroup-size-control') } : undefined,
    matrices: has('chromium-experimental-subgroup-matrix') ? knownMatrices.filter(isOffered) : [],
  };
}

/** A device without them runs other lanes on the same GPU. */
const laneFeatures = [
  'shader-f16',
  'subgroups',
  'subgroup-size-control',
  'chromium-experimental-subgroup-matrix',
];

/** The GPU by name, and what of it decides which shaders run. */
function keyOf(device: GPUDevice): string {
  const info = (device as { adapterInfo?: Record<string, string | number | undefined> }).adapterInfo ?? {};
  const names = ['vendor', 'architecture', 'device', 'description'].map((name) => info[name] ?? '');
  const { maxComputeWorkgroupStorageSize: bytes, maxComputeInvocationsPerWorkgroup: threads } = device.limits;
  const subgroups = `subgroups ${info.subgroupMinSize ?? '?'}-${info.subgroupMaxSize ?? '?'}`;
  const features = laneFeatures.filter((feature) => device.features.has(feature)).join(' ');
  return `${names.join('/')}, ${bytes} bytes, ${threads} threads, ${subgroups}, features: ${features}`;
}

/** The matrices that a lane runs on, or why there are none: T3 on those of halves, T3x on the first of any. */
export function matrixOf(
  lane: MatrixLane,
  { hasF16, subgroups, matrices }: Capabilities,
): MatrixShape | string {
  const usable = matrices.filter(({ operand }) => (operand === 'f16' ? hasF16 : lane === 'T3x'));
  if (usable.length === 0 && !hasF16) return 'the device has no shader-f16';
  if (!subgroups) return 'the device has no subgroups';
  if (usable.length === 0) {
    return `the device has no subgroup matrices ${lane === 'T3' ? 'of halves ' : ''}with float32 results`;
  }
  const { min, max, canBeSet } = subgroups;
  // where sizes vary, 16x16x16 is AMD's, of which drivers were seen to give wrong results
  const canHave = ({ lanes, m }: MatrixShape): boolean =>
    min <= lanes && lanes <= max && (min === max || (canBeSet === true && m < 16));
  return usable.find(canHave) ?? `the matrix shaders are written for subgroups of ${usable[0].lanes}`;
}

/** The lanes that keep the bounds of a precision on a device, the fastest first, and why each other one does not run. */
export function lanesFor(
  precision: Precision,
  device: Capabilities,
): { lanes: Lane[]; passedOver: PassedOver[] } {
  const lanes: Lane[] = [];
  const passedOver: PassedOver[] = [];
  const consider = (lane: Lane, reason: string | undefined): void => {
    if (reason === undefined) lanes.push(lane);
    else passedOver.push({ candidate: lane, reason });
  };
  const narrow = precision === 'float32' ? "precision 'float32' wants float32 operands" : undefined;
  const [halves, float32] = [matrixOf('T3', device), matrixOf('T3x', device)];
  const noHalves = typeof halves === 'string' ? halves : undefined;
  const noFloat32 = typeof float32 === 'string' ? float32 : undefined;
  // what float32 matrices do they do for every precision; halves are split for float32 alone
  const isWhole = typeof float32 !== 'string' && float32.operand === 'f32';
  consider('T3', narrow ?? noHalves);
  consider('T3x', narrow || isWhole ? noFloat32 : 'T3 needs one half each');
  consider('T2', narrow);
  consider('T1s', device.subgroups ? undefined : 'the device has no subgroups');
  consider('T1', undefined);
  return { lanes, passedOver };
}
