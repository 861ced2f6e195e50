/** Tiles of the forward on subgroup matrices: how eight subgroups share rows and columns, and what that takes. */
import type { DeviceLimits } from '../capabilities.js';
import { mostSplits } from '../mergeSplits.js';
import { SUBGROUPS, THREADS, chooseAmong, multiprocessors } from './choose.js';
import type { MatrixChoice } from './choose.js';
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
  /** places and strides in the arena, in units */
  keys: { at: number; stride: number };
  values: { at: number; stride: number };
  scores: { at: number; stride: number };
  weights: { at: number; stride: number };
  arena: number;
  bytes: number;
  registers: number;
}

export const forwardCandidates: ForwardCandidate[] = [
  { KEYS: 32, ROW_TILES: 1, COLUMN_GROUPS: 1 },
  { KEYS: 32, ROW_TILES: 2, COLUMN_GROUPS: 2 },
  { KEYS: 32, ROW_TILES: 1, COLUMN_GROUPS: 2 },
];

export function nameOfForward({ KEYS, ROW_TILES, COLUMN_GROUPS }: ForwardCandidate): string {
  return `KEYS=${KEYS} ROW_TILES=${ROW_TILES} COLUMN_GROUPS=${COLUMN_GROUPS}`;
}

export function layOutForward(candidate: ForwardCandidate, work: ForwardWork): ForwardTile {
  const { KEYS, ROW_TILES, COLUMN_GROUPS } = candidate;
  const ROWS = (SUBGROUPS / COLUMN_GROUPS) * ROW_TILES * EDGE;
  const columns = Math.ceil(work.columns / COLUMN_GROUPS) * COLUMN_GROUPS;
  const keys = { at: 0, stride: work.steps * EDGE_UNITS + 1 };
  const values = { at: KEYS * keys.stride, stride: columns * EDGE_UNITS + 1 };
  const scores = { at: values.at + KEYS * values.stride, stride: KEYS / 4 + 1 };
  // a thread with sixteen scores puts its weights in their place: a whole matrix wide
  const isInPlace = (KEYS * ROWS) / THREADS >= EDGE;
  const past = scores.at + ROWS * scores.stride;
  const weights = isInPlace ? scores : { at: past, stride: KEYS / 8 + 1 };
  const arena = isInPlace ? past : past + ROWS * weights.stride;
  return {
    ...candidate,
    ROWS,
    ROW_GROUPS: SUBGROUPS / COLUMN_GROUPS,
    columns,
    keys,
    values,
    scores,
    weights,
    arena,
    bytes: 16 * arena + 4 * ROWS + 16,
    registers:
      4 * ROW_TILES * work.steps +
      8 * ROW_TILES * (columns / COLUMN_GROUPS + KEYS / EDGE / COLUMN_GROUPS) +
      4 * Math.ceil((KEYS * work.staged) / THREADS),
  };
}

export function chooseForwardTile(
  work: ForwardWork,
  limits: DeviceLimits,
  prefer?: string,
): MatrixChoice<ForwardTile> | string {
  const tiles = forwardCandidates.map((candidate) => layOutForward(candidate, work));
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
