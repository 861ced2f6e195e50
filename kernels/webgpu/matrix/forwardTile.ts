/** Tiles of the forward on subgroup matrices: how subgroups share rows and columns, and what that takes. */
import type { DeviceLimits } from '../capabilities.js';
import { mostSplits } from '../mergeSplits.js';
import { THREADS, chooseAmong, multiprocessors } from './choose.js';
import type { MatrixChoice } from './choose.js';
import { matrixRegisters, matrixUnits, unitSize } from './form.js';
import type { MatrixForm } from './form.js';
import type { Place } from './staging.js';

export interface ForwardCandidate {
  /** keys of a step */
  KEYS: number;
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
  form: MatrixForm;
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

/** A thread's scores are a unit of weights at least, and a step's keys a matrix for each group of columns. */
export function candidatesOf({ m, operand, parts }: MatrixForm): ForwardCandidate[] {
  const few = { KEYS: 16, COLUMN_GROUPS: 1 };
  const many = { ...few, KEYS: 32 };
  // numbers of four bytes, split or not, take twice the memory
  if (parts === 2) return [few];
  if (operand === 'f32') return [few, many];
  const shared = { ...many, COLUMN_GROUPS: 2 };
  return [m === 16 ? many : few, shared];
}

export function nameOfForward({ KEYS, COLUMN_GROUPS }: ForwardCandidate): string {
  return `KEYS=${KEYS} COLUMN_GROUPS=${COLUMN_GROUPS}`;
}

export function layOutForward(candidate: ForwardCandidate, work: ForwardWork, form: MatrixForm): ForwardTile {
  const { KEYS, COLUMN_GROUPS } = candidate;
  const { m, n, k, operand, lanes, parts } = form;
  const ROW_GROUPS = THREADS / lanes / COLUMN_GROUPS;
  const ROWS = ROW_GROUPS * m;
  const units = matrixUnits(form);
  const registers = matrixRegisters(form);
  const columns = Math.ceil(work.columns / COLUMN_GROUPS) * COLUMN_GROUPS;
  const place = (at: number, width: number): Place => ({
    at,
    stride: parts * width + 1,
    low: parts === 2 ? width : undefined,
  });
  const keys = place(0, work.steps * units.depth);
  const values = place(KEYS * keys.stride, columns * units.columns);
  const scores = { at: values.at + KEYS * values.stride, stride: KEYS / 4 + 1 };
  // a thread puts weights in the place of its scores if they are as large, or a whole matrix wide, and no other subgroup
  // reads them, which the next scores might overtake
  const fits = operand === 'f32' || (KEYS * ROWS) / THREADS >= parts * k;
  const isInPlace = fits && COLUMN_GROUPS === 1;
  const past = scores.at + ROWS * scores.stride;
  const weights = isInPlace ? scores : place(past, KEYS / unitSize(form));
  const arena = isInPlace ? past : past + ROWS * weights.stride;
  return {
    ...candidate,
    ROWS,
    ROW_GROUPS,
    columns,
    form,
    copiers: THREADS / KEYS,
    keys,
    values,
    scores,
    weights,
    arena,
    // beside the arena: factors of the rows, and of split numbers the maxima of the threads
    bytes: 16 * arena + 4 * ROWS + 16 + (parts === 2 ? 16 * THREADS : 0),
    registers:
      registers.left * work.steps +
      registers.sums * (columns / COLUMN_GROUPS + KEYS / n / COLUMN_GROUPS) +
      4 * Math.ceil((parts * KEYS * work.staged) / THREADS),
  };
}

export function chooseForwardTile(
  work: ForwardWork,
  form: MatrixForm,
  limits: DeviceLimits,
  prefer?: string,
): MatrixChoice<ForwardTile> | string {
  const tiles = candidatesOf(form).map((candidate) => layOutForward(candidate, work, form));
  return chooseAmong(tiles, limits, nameOfForward, (tile) => costOf(tile, work), prefer);
}

/**
 * Nanoseconds, roughly, until the last workgroup is done: the longest walk, or all walks shared out. A step's time was
 * measured on an H200 at 192/128, with 32 keys; that half of them take more than half of it is a guess.
 */
function costOf(tile: ForwardTile, work: ForwardWork): number {
  const { ROWS, KEYS } = tile;
  const stepTime = (ROWS === 64 ? 1290 : 1750) * ((work.steps + work.columns) / 20) * ((KEYS + 8) / 40);
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
