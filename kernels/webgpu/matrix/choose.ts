/** Candidates → legal by threads, bytes and registers → cheapest by model → explained. */
import type { PassedOver } from '../../../src/core/register.js';
import type { DeviceLimits } from '../capabilities.js';
import { LANES } from './wgsl.js';

export const SUBGROUPS = 8;
export const THREADS = SUBGROUPS * LANES;

/** Of a large GPU; WebGPU does not tell. */
export const multiprocessors = 132;

/** More would spill. */
const mostRegisters = 208;

/** What a tile takes: workgroup memory, and registers a thread for what must stay. */
export interface Needs {
  bytes: number;
  registers: number;
}

/** Why a tile does not run on a device; undefined if it does. */
export function whyIllegal({ bytes, registers }: Needs, limits: DeviceLimits): string | undefined {
  const most = Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX);
  if (THREADS > most) return `${THREADS} threads, the device allows ${most}`;
  if (bytes > limits.maxComputeWorkgroupStorageSize) {
    return `${bytes} bytes of workgroup memory, the device allows ${limits.maxComputeWorkgroupStorageSize}`;
  }
  if (registers > mostRegisters) {
    return `${Math.ceil(registers)} registers a thread, at most ${mostRegisters}`;
  }
  return undefined;
}

export interface MatrixChoice<Tile> {
  tile: Tile;
  passedOver: PassedOver[];
  /** the names of all legal candidates, the cheapest first */
  candidates: string[];
}

/**
 * The legal tile of the name `prefer`, else the cheapest one, and why each other candidate was passed over; or, as text,
 * why none is legal.
 */
export function chooseAmong<Tile extends Needs>(
  tiles: Tile[],
  limits: DeviceLimits,
  nameOf: (tile: Tile) => string,
  costOf: (tile: Tile) => number,
  prefer?: string,
): MatrixChoice<Tile> | string {
  const passedOver: PassedOver[] = [];
  const legal: { name: string; tile: Tile; cost: number }[] = [];
  for (const tile of tiles) {
    const reason = whyIllegal(tile, limits);
    if (reason) passedOver.push({ candidate: nameOf(tile), reason });
    else legal.push({ name: nameOf(tile), tile, cost: costOf(tile) });
  }
  if (legal.length === 0)
    return passedOver.map(({ candidate, reason }) => `${candidate}: ${reason}`).join('; ');
  legal.sort((a, b) => a.cost - b.cost);
  const chosen = legal.find(({ name }) => name === prefer) ?? legal[0];
  for (const { name, cost } of legal) {
    if (name !== chosen.name) passedOver.push({ candidate: name, reason: `cost ${cost.toFixed(0)}` });
  }
  return { tile: chosen.tile, passedOver, candidates: legal.map(({ name }) => name) };
}
