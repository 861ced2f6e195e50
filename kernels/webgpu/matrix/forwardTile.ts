/** Tiles of the forward on subgroup matrices: how eight subgroups share rows and columns, and what that takes. */
import type { DeviceLimits } from '../capabilities.js';
import { mostSplits } from '../mergeSplits.js';
import { SUBGROUPS, THREADS, chooseAmong, multiprocessors } from './choose.js';
import type { MatrixChoice } from './choose.js';
import type { Place } from './staging.js';
import { EDGE, EDGE_UNITS } from './wgsl.js';

export interface ForwardCandidate {
  /** keys of a step */
  KEYS: number;
  /** matrices of rows that a subgroup owns */
  ROW_TILES: number;
  /** subgroups that share rows: each has its own keys of the scores and its own columns of the output */
  COLUMN_GROUPS: number;
}

/** Depth of the scores and columns of the output, in matrices, and the units that a step stages. */
export interface ForwardWork {
  steps: number;
  columns: number;
  staged: number;
  /** packed rows and keys, and how many such problems there are (batch · key/value heads) */
  rows: number;
  keys: number;
  problems: number;
  /** part of the keys that a row sees on average */
  seen: number;
}

export interface ForwardTile extends ForwardCandidate {
  ROWS: number;
  ROW_GROUPS: number;
  /** columns of the output in matrices, a multiple of COLUMN_GROUPS */
  columns: number;
  /** halves of a number of the operands */
  parts: 1 | 2;
  /** threads that copy one row */
  copiers: number;
  keys: Place;
  values: Place;
  scores: Place;
  weights: Place;
  arena: number;
  bytes: number;
  registers: number;
}

export const forwardCandidates: ForwardCandidate[] = [
  { KEYS: 32, ROW_TILES: 1, COLUMN_GROUPS: 1 },
  { KEYS: 32, ROW_TILES: 2, COLUMN_GROUPS: 2 },
  { KEYS: 32, ROW_TILES: 1, COLUMN_GROUPS: 2 },
];

/** Of split halves, which take twice the memory. */
export const splitCandidates: ForwardCandidate[] = [{ KEYS: 16, ROW_TILES: 1, COLUMN_GROUPS: 1 }];

export function nameOfForward({ KEYS, ROW_TILES, COLUMN_GROUPS }: ForwardCandidate): string {
  return `KEYS=${KEYS} ROW_TILES=${ROW_TILES} COLUMN_GROUPS=${COLUMN_GROUPS}`;
}

export function layOutForward(candidate: ForwardCandidate, work: ForwardWork, parts: 1 | 2 = 1): ForwardTile {
  const { KEYS, ROW_TILES, COLUMN_GROUPS } = candidate;
  const ROWS = (SUBGROUPS / COLUMN_GROUPS) * ROW_TILES * EDGE;
  const columns = Math.ceil(work.columns / COLUMN_GROUPS) * COLUMN_GROUPS;
  const place = (at: number, units: number): Place => ({
    at,
    stride: parts * units + 1,
    low: parts === 2 ? units : undefined,
  });
  const keys = place(0, work.steps * EDGE_UNITS);
  const values = place(KEYS * keys.stride, columns * EDGE_UNITS);
  const scores = { at: values.at + KEYS * values.stride, stride: KEYS / 4 + 1 };
  // a thread with sixteen scores puts its weights in their place: a whole matrix wide
  const isInPlace = (KEYS * ROWS) / THREADS >= parts * EDGE;
  const past = scores.at + ROWS * scores.stride;
  const weights = isInPlace ? scores : place(past, KEYS / 8);
  const arena = isInPlace ? past : past + ROWS * weights.stride;
  return {
    ...candidate,
    ROWS,
    ROW_GROUPS: SUBGROUPS / COLUMN_GROUPS,
    columns,
    parts,
    copiers: THREADS / KEYS,
    keys,
    values,
    scores,
    weights,
    arena,
    // beside the arena: factors of the rows, and of split numbers the maxima of the threads
    bytes: 16 * arena + 4 * ROWS + 16 + (parts === 2 ? 16 * THREADS : 0),
    registers:
      4 * parts * ROW_TILES * work.steps +
      8 * ROW_TILES * (columns / COLUMN_GROUPS + KEYS / EDGE / COLUMN_GROUPS) +
      4 * Math.ceil((parts * KEYS * work.staged) / THREADS),
  };
}

export function chooseForwardTile(
  work: ForwardWork,
  parts: 1 | 2,
  limits: DeviceLimits,
  prefer?: string,
): MatrixChoice<ForwardTile> | string {
  const candidates = parts === 1 ? forwardCandidates : splitCandidates;
  const tiles = candidates.map((candidate) => layOutForward(candidate, work, parts));
  return chooseAmong(tiles, limits, nameOfForward, (tile) => costOf(tile, work), prefer);
}

/**
 * Nanoseconds, roughly, until the last workgroup is done: the longest walk, or all walks shared out. A step's time was
 * measured on an H200 at 192/128.
 */
function costOf(tile: ForwardTile, work: ForwardWork): number {
  const { ROWS, COLUMN_GROUPS, KEYS } = tile;
  const stepTime =
    (ROWS === 64 ? 1290 : COLUMN_GROUPS === 2 ? 1800 : 1750) * ((work.steps + work.columns) / 20);
  const groups = Math.ceil(work.rows / ROWS) * work.problems;
  const walk = Math.ceil(work.keys / KEYS) / splitsOfForward(tile, work);
  return stepTime * walk * Math.max(1, (groups * work.seen) / multiprocessors);
}

/** Parts of the walk over keys, each a workgroup of its own, where there are few rows. */
export function splitsOfForward({ ROWS, KEYS }: ForwardTile, work: ForwardWork): number {
  const groups = Math.ceil(work.rows / ROWS) * work.problems;
  if (4 * groups > multiprocessors) return 1;
  return Math.max(
    1,
    Math.min(Math.ceil(multiprocessors / groups), Math.floor(work.keys / (2 * KEYS)), mostSplits),
  );
}
