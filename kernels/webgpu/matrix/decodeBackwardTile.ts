/**
 * The tile of decode's backward on subgroup matrices. Latent and rope part are so wide that eight subgroups share the
 * depth of the products, and that a step has no more than sixteen staged rows.
 */
import { SUBGROUPS, THREADS } from './choose.js';
import type { Needs } from './choose.js';
import type { DecodeWork } from './decodeTile.js';
import type { Place } from './staging.js';
import { EDGE, EDGE_UNITS } from './wgsl.js';

/** Rows that a workgroup owns: queries in …Dq, keys in …Dkv. */
export const LEFT = 32;
/** Rows of the other operand that are staged at a time, by so many threads each. */
export const RIGHT = EDGE;
export const COPIERS = THREADS / RIGHT;

/** Groups of sixteen left rows; the subgroups of each share the columns of the sums. */
export const ROW_GROUPS = LEFT / EDGE;
export const COLUMN_GROUPS = SUBGROUPS / ROW_GROUPS;
/** Half of them form scores, the others dP: each a part of the depth. */
export const DEPTH_GROUPS = COLUMN_GROUPS / 2;

/** Units of a row of products of one part of the depth: scores, then dP. */
export const SCORE_UNITS = RIGHT / 4;

export interface DecodeBackwardTile extends Needs {
  /** depth of the scores and of dP, and the part of one subgroup, in matrices */
  steps: number;
  valueSteps: number;
  ownSteps: number;
  /** matrices of the sums' columns that a subgroup owns */
  own: number;
  /** staged rows: what scores are products of, and what dP is, which in …Dq are the same rows of the cache */
  first: Place;
  second: Place;
  products: Place;
  arena: number;
}

export function layOutDecodeBackward(
  { units, valueUnits }: Pick<DecodeWork, 'units' | 'valueUnits'>,
  isDkv: boolean,
): DecodeBackwardTile {
  const [steps, valueSteps] = [units, valueUnits].map((count) => Math.ceil(count / EDGE_UNITS));
  const ownSteps = Math.ceil(steps / DEPTH_GROUPS);
  const own = Math.ceil(steps / COLUMN_GROUPS);
  // every subgroup loads as many left matrices
  const first = { at: 0, stride: DEPTH_GROUPS * ownSteps * EDGE_UNITS + 1 };
  const second = isDkv ? { at: RIGHT * first.stride, stride: valueSteps * EDGE_UNITS + 1 } : first;
  const products = { at: second.at + RIGHT * second.stride, stride: 2 * SCORE_UNITS + 1 };
  const arena = products.at + DEPTH_GROUPS * LEFT * products.stride;
  const staged = Math.ceil(units / COPIERS) + (isDkv ? Math.ceil(valueUnits / COPIERS) : 0);
  return {
    ...{ steps, valueSteps, ownSteps, own, first, second, products, arena },
    // beside the arena: the maxima of the threads, and in …Dkv lse and delta of the staged rows
    bytes: 16 * arena + 16 * THREADS + (isDkv ? 8 * RIGHT : 0),
    registers: 4 * ownSteps + 8 * own + 4 * staged,
  };
}
