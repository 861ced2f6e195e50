/** Tiles of decode on subgroup matrices: sixteen or thirty-two packed rows, all heads of a token, share every key. */
import type { DeviceLimits } from '../capabilities.js';
import { mostSplits } from '../mergeSplits.js';
import type { Place } from './staging.js';
import { ROW_COPIERS } from './staging.js';
import { SUBGROUPS, THREADS, chooseAmong, multiprocessors } from './choose.js';
import type { MatrixChoice } from './choose.js';
import { EDGE, EDGE_UNITS } from './wgsl.js';

/** Keys of a step: as many as THREADS copy at once. */
export const KEYS = THREADS / ROW_COPIERS;
/** Groups of sixteen keys, each with subgroups of its own for its scores. */
export const KEY_GROUPS = KEYS / EDGE;

export interface DecodeCandidate {
  /** groups of sixteen rows; the subgroups of each share the depth and the keys of their scores */
  ROW_GROUPS: number;
}

export interface DecodeWork {
  /** units of a key, and of its latent part, which is the value */
  units: number;
  valueUnits: number;
  /** packed rows and keys of an entry of the batch, and entries */
  rows: number;
  keys: number;
  batch: number;
}

export interface DecodeTile extends DecodeCandidate {
  ROWS: number;
  /** subgroups of a row group */
  SCORE_GROUPS: number;
  /** parts of the depth of the scores, added by the softmax */
  DEPTH_GROUPS: number;
  /** depth in matrices, of all and of one part; columns of the output in matrices that a subgroup owns */
  steps: number;
  ownSteps: number;
  own: number;
  cache: Place;
  scores: Place;
  arena: number;
  bytes: number;
  registers: number;
}

export const decodeCandidates: DecodeCandidate[] = [{ ROW_GROUPS: 2 }, { ROW_GROUPS: 1 }];

export function nameOfDecode({ ROW_GROUPS }: DecodeCandidate): string {
  return `ROW_GROUPS=${ROW_GROUPS}`;
}

export function layOutDecode({ ROW_GROUPS }: DecodeCandidate, { units, valueUnits }: DecodeWork): DecodeTile {
  const ROWS = ROW_GROUPS * EDGE;
  const SCORE_GROUPS = SUBGROUPS / ROW_GROUPS;
  const DEPTH_GROUPS = SCORE_GROUPS / KEY_GROUPS;
  const steps = Math.ceil(units / EDGE_UNITS);
  const ownSteps = Math.ceil(steps / DEPTH_GROUPS);
  const own = Math.ceil(valueUnits / EDGE_UNITS / SUBGROUPS);
  // the last subgroup may own matrices of columns that no key has
  const width = Math.max(steps, own * SUBGROUPS) * EDGE_UNITS;
  const cache = { at: 0, stride: width + 1 };
  const scores = { at: KEYS * cache.stride, stride: KEYS / 4 + 1 };
  const arena = scores.at + DEPTH_GROUPS * ROWS * scores.stride;
  return {
    ...{ ROW_GROUPS, ROWS, SCORE_GROUPS, DEPTH_GROUPS, steps, ownSteps, own, cache, scores, arena },
    bytes: 16 * arena + 4 * ROWS + 16,
    registers: 4 * ownSteps + 8 * ROW_GROUPS * own + 4 * Math.ceil(units / ROW_COPIERS),
  };
}

export function chooseDecodeTile(
  work: DecodeWork,
  limits: DeviceLimits,
  prefer?: string,
): MatrixChoice<DecodeTile> | string {
  const tiles = decodeCandidates.map((candidate) => layOutDecode(candidate, work));
  // a step takes nearly as long with half of the rows
  const costOf = ({ ROWS, ROW_GROUPS }: DecodeTile): number =>
    Math.ceil(work.rows / ROWS) * (10 + ROW_GROUPS);
  return chooseAmong(tiles, limits, nameOfDecode, costOf, prefer);
}

/** Parts of the walk over keys, each a workgroup of its own: one workgroup for each multiprocessor, two steps at least. */
export function splitsOfDecode(
  { ROWS }: Pick<DecodeTile, 'ROWS'>,
  { rows, keys, batch }: DecodeWork,
): number {
  const groups = Math.max(1, Math.ceil(rows / ROWS) * batch);
  const most = Math.max(
    1,
    Math.min(Math.floor(multiprocessors / groups), Math.ceil(keys / (2 * KEYS)), mostSplits),
  );
  // splits have whole steps: the last ones may have nothing left
  const steps = Math.max(1, Math.ceil(keys / KEYS));
  return Math.ceil(steps / Math.ceil(steps / most));
}
