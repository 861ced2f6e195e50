/**
 * Tiles: candidates → legal by bytes, threads and registers → cheapest by model → explained.
 *
 * A workgroup owns LEFT rows of one operand (queries, or keys in …Dkv) and walks over the other one, RIGHT rows at a
 * time. Each thread holds a block of the products of rows with rows, and a block of the sums over columns.
 */
import type { PassedOver } from '../../src/core/register.js';
import type { DeviceLimits } from './capabilities.js';
import { SLICE } from './wgsl.js';

/** A way to cut a kernel's work up. */
export interface Candidate {
  LEFT: number;
  RIGHT: number;
  THREADS: number;
  /** rows of the walked operand that are staged at a time for the sums over columns */
  CHUNK: number;
}

/** What a tile has to do: vec4 columns of the products of rows, and of each sum over columns. */
export interface TileWork {
  /** e.g. forward: [dqk/4]; backward: [dqk/4, dv/4] */
  products: number[];
  /** e.g. forward: [dv/4]; …Dq: [dqk/4]; …Dkv: [dv/4, dqk/4] */
  sums: number[];
  /** rows on the left and on the right, and how many such problems there are (batch · heads) */
  left: number;
  right: number;
  problems: number;
  /** parts into which the walk over the right rows may be split */
  mostSplits: number;
  /** float32 numbers per left row, per right row and per thread that are kept beside the arena */
  extra: { left: number; right: number; thread: number };
}

/** How a sum over columns is spread over the threads: ROWS × COLUMNS vec4 each. */
export interface SumShape {
  rows: number;
  rowGroups: number;
  columns: number;
  columnGroups: number;
  /** vec4 columns with padding */
  rowLength: number;
}

export interface Tile extends Candidate {
  /** product rows a thread, each with four right rows */
  rows: number;
  sums: SumShape[];
  /** vec4 from one row of weights to the next; one more than needed, against bank conflicts */
  weightStride: number;
  /** size of the arena in vec4 */
  arena: number;
  /** workgroup memory in all */
  bytes: number;
  /** float32 registers for what must stay: products and sums */
  registers: number;
}

const candidates: Candidate[] = [
  { LEFT: 64, RIGHT: 64, THREADS: 128, CHUNK: 8 },
  { LEFT: 32, RIGHT: 128, THREADS: 256, CHUNK: 8 },
  { LEFT: 32, RIGHT: 128, THREADS: 128, CHUNK: 8 },
  { LEFT: 32, RIGHT: 64, THREADS: 256, CHUNK: 8 },
  { LEFT: 32, RIGHT: 64, THREADS: 128, CHUNK: 8 },
  { LEFT: 32, RIGHT: 64, THREADS: 128, CHUNK: 4 },
  { LEFT: 32, RIGHT: 32, THREADS: 64, CHUNK: 8 },
  { LEFT: 16, RIGHT: 64, THREADS: 256, CHUNK: 8 },
  { LEFT: 16, RIGHT: 64, THREADS: 128, CHUNK: 4 },
  { LEFT: 16, RIGHT: 32, THREADS: 128, CHUNK: 4 },
  { LEFT: 16, RIGHT: 32, THREADS: 64, CHUNK: 4 },
  { LEFT: 16, RIGHT: 16, THREADS: 64, CHUNK: 4 },
];

/** Of a large GPU; a small one is busy long before that. WebGPU does not tell. */
const multiprocessors = 132;

/** More would spill: NVIDIA gives a thread 255, of which addresses and what is on its way take a good part. */
const mostRegisters = 160;

export function nameOf({ LEFT, RIGHT, THREADS, CHUNK }: Candidate): string {
  return `LEFT=${LEFT} RIGHT=${RIGHT} THREADS=${THREADS} CHUNK=${CHUNK}`;
}

export interface Choice {
  tile: Tile;
  passedOver: PassedOver[];
  /** the names of all legal candidates, the cheapest first */
  candidates: string[];
}

/**
 * The legal tile of the name `prefer`, else the cheapest one, and why each other candidate was passed over. Throws if
 * none is legal.
 */
export function chooseTile(work: TileWork, limits: DeviceLimits, prefer?: string): Choice {
  const passedOver: PassedOver[] = [];
  const legal: { name: string; tile: Tile; cost: number }[] = [];
  for (const candidate of candidates) {
    const name = nameOf(candidate);
    const tile = layOut(candidate, work);
    const reason = typeof tile === 'string' ? tile : illegal(tile, limits);
    if (reason !== undefined) passedOver.push({ candidate: name, reason });
    else if (typeof tile !== 'string') legal.push({ name, tile, cost: costOf(tile, work) });
  }
  if (legal.length === 0) {
    const reasons = passedOver.map(({ candidate, reason }) => `${candidate}: ${reason}`);
    throw new Error(`no tile fits this device (${reasons.join('; ')})`);
  }
  legal.sort((a, b) => a.cost - b.cost);
  const chosen = legal.find(({ name }) => name === prefer) ?? legal[0];
  for (const { name, cost } of legal) {
    if (name !== chosen.name) passedOver.push({ candidate: name, reason: `cost ${cost.toFixed(0)}` });
  }
  return { tile: chosen.tile, passedOver, candidates: legal.map(({ name }) => name) };
}

/** All candidates that can be laid out for this work, legal or not: what the compile test goes through. */
export function allTiles(work: TileWork): Tile[] {
  return candidates.map((candidate) => layOut(candidate, work)).filter((tile) => typeof tile !== 'string');
}

function layOut(candidate: Candidate, work: TileWork): Tile | string {
  const { LEFT, RIGHT, THREADS, CHUNK } = candidate;
  const rows = (LEFT * RIGHT) / 4 / THREADS;
  if (!Number.isInteger(rows)) return 'fewer than four products a thread';
  const sums = work.sums.map((columns) => sumShape(columns, LEFT, THREADS));
  const weightStride = RIGHT / 4 + 1;
  const slices = (LEFT + RIGHT) * SLICE;
  const chunk = CHUNK * Math.max(...sums.map(({ rowLength }) => rowLength));
  const arena = Math.max(slices, LEFT * weightStride + chunk);
  const { left, right, thread } = work.extra;
  const bytes =
    16 * arena +
    roundUp16(4 * left * LEFT) +
    roundUp16(4 * right * RIGHT) +
    roundUp16(4 * thread * THREADS) +
    16;
  const products = 4 * rows * work.products.length;
  const registers = products + sums.reduce((sum, { rows: r, columns }) => sum + 4 * r * columns, 0);
  return { ...candidate, rows, sums, weightStride, arena, bytes, registers };
}

function illegal(tile: Tile, limits: DeviceLimits): string | undefined {
  const { bytes, registers, THREADS } = tile;
  const most = Math.min(limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX);
  if (THREADS > most) return `${THREADS} threads, the device allows ${most}`;
  if (bytes > limits.maxComputeWorkgroupStorageSize) {
    return `${bytes} bytes of workgroup memory, the device allows ${limits.maxComputeWorkgroupStorageSize}`;
  }
  if (registers > mostRegisters) return `${registers} registers a thread, at most ${mostRegisters}`;
  return undefined;
}

/** The shape with the fewest loads per product, padding counted. */
function sumShape(columns4: number, left: number, threads: number): SumShape {
  let best: { shape: SumShape; loads: number } | undefined;
  for (let columnGroups = 4; columnGroups <= threads; columnGroups *= 2) {
    const rowGroups = threads / columnGroups;
    const rows = left / rowGroups;
    if (!Number.isInteger(rows)) continue;
    const columns = Math.ceil(columns4 / columnGroups);
    const loads = (rows + 4 * columns + rows * columns * 4) * threads;
    if (best && best.loads <= loads) continue;
    best = { shape: { rows, rowGroups, columns, columnGroups, rowLength: columns * columnGroups }, loads };
  }
  if (!best) throw new Error(`no way to spread ${columns4} columns over ${threads} threads`);
  return best.shape;
}

/**
 * Cycles, roughly, until the last workgroup is done: multiply-adds of a tile of RIGHT rows, and the waits for what is
 * staged and for barriers, which workgroups on one multiprocessor fill for each other. Weights fitted to 86 timings
 * of 35 tiles on an H200.
 */
function costOf(tile: Tile, work: TileWork): number {
  const { LEFT, RIGHT, THREADS, CHUNK, rows, sums, bytes } = tile;
  const slices = work.products.reduce((sum, columns) => sum + Math.ceil(columns / SLICE), 0);
  const total = (each: (shape: SumShape) => number): number =>
    sums.reduce((sum, shape) => sum + each(shape), 0);
  const multiplies =
    16 * (slices * SLICE * rows + (RIGHT / 4) * total((shape) => shape.rows * shape.columns));
  const staged = slices * (LEFT + RIGHT) * SLICE + RIGHT * total((shape) => shape.rowLength);
  const barriers = 2 * slices + (2 * sums.length * RIGHT) / CHUNK + 3;
  const warps = THREADS / 32;

  const splits = splitsOf(tile, work);
  const groups = groupsOf(tile, work) * splits;
  const tilesPerGroup = Math.ceil(Math.max(1, work.right / RIGHT) / splits);
  const resident = Math.max(1, Math.min(Math.floor(49152 / bytes), Math.floor(groups / multiprocessors)));
  const waits = ((138 * staged) / THREADS + 82 * barriers * warps) / resident;
  const tileCycles = 1.9 * multiplies * (THREADS / 128) + waits;
  return (groups * tilesPerGroup * tileCycles) / Math.min(groups, multiprocessors);
}

/** Workgroups of one split. What has no rows is compiled all the same, and small tiles compile faster. */
function groupsOf({ LEFT }: Candidate, { left, problems }: TileWork): number {
  return Math.max(1, Math.ceil(left / LEFT) * problems);
}

/**
 * Parts of the walk over the right rows, each a workgroup of its own, where there are too few workgroups for a large
 * GPU. Parts must be joined again, so they are not made small.
 */
export function splitsOf(candidate: Candidate, work: TileWork): number {
  const groups = groupsOf(candidate, work);
  if (4 * groups > multiprocessors) return 1;
  const wanted = Math.ceil((2 * multiprocessors) / groups);
  return Math.max(1, Math.min(wanted, Math.floor(work.right / 64), work.mostSplits));
}

function roundUp16(bytes: number): number {
  return Math.ceil(bytes / 16) * 16;
}
