/** What a device can do for our shaders, and the lanes that this opens. */
import type { PassedOver } from '../../src/core/register.js';
import type { Precision } from '../../src/core/precision.js';

export interface DeviceLimits {
  maxComputeWorkgroupStorageSize: number;
  maxComputeInvocationsPerWorkgroup: number;
  maxComputeWorkgroupSizeX: number;
}

/** A shape of subgroup matrices: left [m, k] times right [k, n], the operands in one type and the result in another. */
export interface MatrixShape {
  m: number;
  n: number;
  k: number;
  operand: 'f16' | 'f32';
}

export interface Capabilities {
  /** what the tuner knows the device by; absent: nothing was ever timed on it */
  key?: string;
  limits: DeviceLimits;
  /** shader-f16 */
  hasF16: boolean;
  /** sizes that a subgroup may have; absent without the feature */
  subgroups?: { min: number; max: number };
  /** subgroup matrices with float32 results, the fastest kind first */
  matrices: MatrixShape[];
}

/**
 * T1: float32, no optional feature. T1s: the same, rows reduced by subgroups. T2: halves in workgroup memory, float32
 * products and sums, rows reduced by subgroups where there are any. T3: products on subgroup matrices of halves, float32 sums.
 * T3x: the same, with each float32 as two halves.
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

/** The shapes that our shaders are written for, the fastest first. */
export const knownMatrices: MatrixShape[] = [{ m: 16, n: 16, k: 16, operand: 'f16' }];

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
    subgroups: has('subgroups') && min && max ? { min, max } : undefined,
    matrices: has('chromium-experimental-subgroup-matrix') ? knownMatrices.filter(isOffered) : [],
  };
}

/** A device without them runs other lanes on the same GPU. */
const laneFeatures = ['shader-f16', 'subgroups', 'chromium-experimental-subgroup-matrix'];

/** The GPU by name, and what of it decides which shaders run. */
function keyOf(device: GPUDevice): string {
  const info = (device as { adapterInfo?: Record<string, string | number | undefined> }).adapterInfo ?? {};
  const names = ['vendor', 'architecture', 'device', 'description'].map((name) => info[name] ?? '');
  const { maxComputeWorkgroupStorageSize: bytes, maxComputeInvocationsPerWorkgroup: threads } = device.limits;
  const subgroups = `subgroups ${info.subgroupMinSize ?? '?'}-${info.subgroupMaxSize ?? '?'}`;
  const features = laneFeatures.filter((feature) => device.features.has(feature)).join(' ');
  return `${names.join('/')}, ${bytes} bytes, ${threads} threads, ${subgroups}, features: ${features}`;
}

/** The lanes that keep the bounds of a precision on a device, the fastest first, and why each other one does not run. */
export function lanesFor(
  precision: Precision,
  { hasF16, subgroups, matrices }: Capabilities,
): { lanes: Lane[]; passedOver: PassedOver[] } {
  const lanes: Lane[] = [];
  const passedOver: PassedOver[] = [];
  const consider = (lane: Lane, reason: string | undefined): void => {
    if (reason === undefined) lanes.push(lane);
    else passedOver.push({ candidate: lane, reason });
  };
  const narrow = precision === 'float32' ? "precision 'float32' wants float32 operands" : undefined;
  const noF16 = hasF16 ? undefined : 'the device has no shader-f16';
  const noSubgroups = subgroups ? undefined : 'the device has no subgroups';
  const noMatrices =
    matrices.length > 0 ? undefined : 'the device has no subgroup matrices of halves with float32 results';
  const otherSize =
    subgroups?.min === 32 && subgroups.max === 32
      ? undefined
      : 'the matrix shaders are written for subgroups of 32';
  const noLane = noF16 ?? noSubgroups ?? noMatrices ?? otherSize;
  consider('T3', narrow ?? noLane);
  consider('T2', narrow);
  consider('T3x', precision === 'float32' ? noLane : 'T3 needs one half each');
  consider('T1s', noSubgroups);
  consider('T1', undefined);
  return { lanes, passedOver };
}
