/**
 * Tiles: candidates → legal by bytes, threads and registers → cheapest by model → explained.
 *
 * A workgroup owns LEFT rows of one operand (queries, or keys in …Dkv) and walks over the other one, RIGHT rows at a
 * time. Each thread holds a block of the products of rows with rows, and a block of the sums over columns.
 */
import type { MlaProblem } from '../../src/core/problem.js';
import type { PassedOver } from '../../src/core/register.js';
import type { DeviceLimits, LaneConstants } from './capabilities.js';
import { arenaElement, elementsOf, sliceStride } from './wgsl.js';
import type { Form, Slice } from './wgsl.js';

/** A way to cut a kernel's work up. */
export interface Candidate {
  LEFT: number;
  RIGHT: number;
  THREADS: number;
  /** rows of the walked operand that are staged at a time for the sums over columns */
  CHUNK: number;
  /** vec4 columns of both operands that are staged at a time for the products of rows */
  SLICE: number;
  /** how many times four right rows a thread multiplies with each of its left rows */
  QUADS: number;
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
  /** float32 numbers per left row and per right row that are kept beside the arena */
  extra: { left: number; right: number };
  /** whether the products of each left row are reduced to one number, across the threads that hold them */
  reducesRows: boolean;
  /** whether weights are at most 1, so that halves may hold them */
  hasSmallWeights: boolean;
  lane: LaneConstants;
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
  /** slices of the two operands in the arena */
  slices: { left: Slice; right: Slice };
  /** how weights lie in the arena, and elements from one row of them to the next: an odd number, as in a slice */
  weightForm: Form;
  weightStride: number;
  /** product rows a thread */
  rows: number;
  /** threads that hold the products of a row, of which so many reduce them within a subgroup */
  rowThreads: number;
  rowLanes: number;
  sums: SumShape[];
  /** size of the arena in elements */
  arena: number;
  /** workgroup memory in all */
  bytes: number;
  /** float32 registers for what must stay: products, sums, and what is known of rows */
  registers: number;
}

const candidates: Candidate[] = [
  { LEFT: 128, RIGHT: 64, THREADS: 256, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 64, RIGHT: 128, THREADS: 128, CHUNK: 8, SLICE: 8, QUADS: 2 },
  { LEFT: 64, RIGHT: 128, THREADS: 128, CHUNK: 16, SLICE: 8, QUADS: 2 },
  { LEFT: 64, RIGHT: 64, THREADS: 256, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 64, RIGHT: 64, THREADS: 128, CHUNK: 16, SLICE: 16, QUADS: 1 },
  { LEFT: 64, RIGHT: 64, THREADS: 128, CHUNK: 8, SLICE: 16, QUADS: 1 },
  { LEFT: 64, RIGHT: 64, THREADS: 128, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 64, RIGHT: 32, THREADS: 64, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 32, RIGHT: 128, THREADS: 256, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 32, RIGHT: 128, THREADS: 128, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 32, RIGHT: 128, THREADS: 64, CHUNK: 8, SLICE: 8, QUADS: 2 },
  { LEFT: 32, RIGHT: 64, THREADS: 256, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 32, RIGHT: 64, THREADS: 128, CHUNK: 8, SLICE: 16, QUADS: 1 },
  { LEFT: 32, RIGHT: 64, THREADS: 128, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 32, RIGHT: 64, THREADS: 128, CHUNK: 4, SLICE: 8, QUADS: 1 },
  { LEFT: 32, RIGHT: 64, THREADS: 64, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 32, RIGHT: 32, THREADS: 64, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 16, RIGHT: 64, THREADS: 256, CHUNK: 8, SLICE: 8, QUADS: 1 },
  { LEFT: 16, RIGHT: 64, THREADS: 128, CHUNK: 4, SLICE: 8, QUADS: 1 },
  { LEFT: 16, RIGHT: 32, THREADS: 128, CHUNK: 4, SLICE: 8, QUADS: 1 },
  { LEFT: 16, RIGHT: 32, THREADS: 64, CHUNK: 4, SLICE: 8, QUADS: 1 },
  { LEFT: 16, RIGHT: 16, THREADS: 64, CHUNK: 4, SLICE: 8, QUADS: 1 },
];

/** Of a large GPU; a small one is busy long before that. WebGPU does not tell. */
const multiprocessors = 132;

/** More would spill: NVIDIA gives a thread 255, of which addresses and what is on its way take a good part. */
const mostRegisters = 160;

export function nameOf({ LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS }: Candidate): string {
  return `LEFT=${LEFT} RIGHT=${RIGHT} THREADS=${THREADS} CHUNK=${CHUNK} SLICE=${SLICE} QUADS=${QUADS}`;
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

/** Whether operands are staged as halves. */
export function hasHalves({ slices }: Tile): boolean {
  return slices.right.form === 'halves';
}

/** All candidates that can be laid out for this work, legal or not: what the compile test goes through. */
export function allTiles(work: TileWork): Tile[] {
  return candidates.map((candidate) => layOut(candidate, work)).filter((tile) => typeof tile !== 'string');
}

function layOut(candidate: Candidate, work: TileWork): Tile | string {
  const { LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS } = candidate;
  const { SUBGROUP, HALVES } = work.lane;
  const rowThreads = RIGHT / 4 / QUADS;
  const rows = (LEFT * rowThreads) / THREADS;
  if (!Number.isInteger(rows)) return 'fewer products a thread than a block has';
  const form = HALVES ? 'halves' : 'floats';
  const weightForm = HALVES && !work.hasSmallWeights ? 'apart' : form;
  // a row on the left is read by many threads at once: as floats it costs no conversion in each of them
  const leftForm = HALVES ? 'apart' : form;
  const left = { at: 'LEFT_SLICE', form: leftForm, rows: LEFT, block: rows, columns: SLICE } as const;
  const right = { at: 'RIGHT_SLICE', form, rows: RIGHT, block: 4, columns: SLICE } as const;
  const sums = work.sums.map((columns) => sumShape(columns, LEFT, THREADS));
  const weightStride = (RIGHT / 4) * elementsOf(weightForm) + 1;
  const chunk = CHUNK * Math.max(...sums.map(({ rowLength }) => rowLength));
  const slice = LEFT * sliceStride(SLICE, leftForm) + RIGHT * sliceStride(SLICE, form);
  const arena = Math.max(slice, LEFT * weightStride + chunk);
  const rowLanes = work.reducesRows ? Math.min(SUBGROUP, rowThreads) : 1;
  const parts = work.reducesRows && rowLanes < rowThreads ? rowThreads / rowLanes : 0;
  const bytes =
    roundUp16(arenaElement[form].bytes * arena) +
    roundUp16(4 * work.extra.left * LEFT) +
    roundUp16(4 * work.extra.right * RIGHT) +
    roundUp16(4 * parts * LEFT) +
    16;
  const products = 4 * rows * QUADS * work.products.length;
  const ofRows = work.reducesRows ? 2 * rows : 0;
  const registers = products + ofRows + sums.reduce((sum, { rows: r, columns }) => sum + 4 * r * columns, 0);
  const slices = { left, right };
  return {
    ...candidate,
    ...{ slices, weightForm, weightStride, rows, rowThreads, rowLanes, sums, arena, bytes, registers },
  };
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
 * Cycles, roughly, until the last workgroup is done: what a tile of RIGHT rows takes to compute, and the waits for what
 * is staged and for barriers, which workgroups on one multiprocessor fill for each other. Weights fitted to 86 timings
 * of 35 tiles of floats on an H200.
 */
function costOf(tile: Tile, work: TileWork): number {
  const { LEFT, RIGHT, THREADS, CHUNK, SLICE, sums, rowLanes, rowThreads } = tile;
  const slices = work.products.reduce((sum, columns) => sum + Math.ceil(columns / SLICE), 0);
  const rowLengths = sums.reduce((sum, { rowLength }) => sum + rowLength, 0);
  const staged = slices * (LEFT + RIGHT) * SLICE + RIGHT * rowLengths;
  const reductions = work.reducesRows && rowLanes < rowThreads ? 1 : 0;
  const barriers = 2 * slices + sums.length * (1 + (2 * RIGHT) / CHUNK) + reductions;
  const warps = THREADS / 32;

  const splits = splitsOf(tile, work);
  const groups = groupsOf(tile, work) * splits;
  const tilesPerGroup = Math.ceil(Math.max(1, work.right / RIGHT) / splits);
  const resident = Math.max(1, Math.min(residentOf(tile), Math.floor(groups / multiprocessors)));
  const waits = ((138 * staged) / THREADS + 82 * barriers * warps) / resident;
  const tileCycles = 1.6 * instructionsOf(tile, slices * SLICE) * (THREADS / 128) + waits;
  return (groups * tilesPerGroup * tileCycles) / Math.min(groups, multiprocessors);
}

/**
 * Instructions of a thread for a tile: multiply-adds, conversions of halves, and loads, of which those of 16 bytes
 * count double. `columns` are all that are staged for products.
 */
function instructionsOf(tile: Tile, columns: number): number {
  const { RIGHT, QUADS, rows, sums, slices, weightForm } = tile;
  const reads = { floats: 2, halves: 5, apart: 2 };
  const [ofLeft, ofRight] = [reads[slices.left.form], reads[slices.right.form]];
  const products = 16 * rows * QUADS + rows * ofLeft + 4 * QUADS * ofRight;
  const ofSum = ({ rows: r, columns: c }: SumShape): number =>
    16 * r * c + 4 * c * ofRight + r * reads[weightForm];
  return columns * products + (RIGHT / 4) * sums.reduce((sum, shape) => sum + ofSum(shape), 0);
}

/** Workgroups that fit on a multiprocessor of a large GPU together, by memory and by registers. */
function residentOf({ THREADS, bytes, registers }: Tile): number {
  return Math.min(Math.floor(49152 / bytes), Math.floor(65536 / (THREADS * (registers + 60))));
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

/** Tiles of packed rows a key/value head has. */
export function tilesOf({ sq, hq, hkv }: MlaProblem, left: number): number {
  return hkv === 0 ? 0 : Math.ceil((sq * (hq / hkv)) / left);
}

function roundUp16(bytes: number): number {
  return Math.ceil(bytes / 16) * 16;
}
