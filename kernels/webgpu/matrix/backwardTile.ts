/** The tile of the backward on subgroup matrices: what eight subgroups hold of LEFT rows and RIGHT staged rows. */
import type { Place } from './staging.js';
import { SUBGROUPS, THREADS } from './choose.js';
import { EDGE, EDGE_UNITS } from './wgsl.js';

/** Rows that a workgroup owns: queries in …Dq, keys in …Dkv. */
export const LEFT = 64;
/** Rows of the other operand that are staged at a time. */
export const RIGHT = 32;

/** Four groups of subgroups share the columns of the sums, each has them for half of the rows. */
export const SUM_GROUPS = 4;
export const SUM_ROWS = LEFT / EDGE / (SUBGROUPS / SUM_GROUPS);

/** What a backward kernel multiplies, in matrices: depth of the scores and of dP, and columns of the sums. */
export interface BackwardWork {
  steps: number;
  valueSteps: number;
  sums: number;
}

export interface BackwardTile extends BackwardWork {
  /** matrices of the sums that a subgroup has of each of its rows */
  own: number;
  /** staged rows: keys or queries, values or gradients */
  first: Place;
  second: Place;
  scores: Place;
  dP: Place;
  arena: number;
  bytes: number;
  registers: number;
}

export function layOutBackward(work: BackwardWork): BackwardTile {
  const own = Math.ceil(work.sums / SUM_GROUPS);
  const first = { at: 0, stride: work.steps * EDGE_UNITS + 1 };
  const second = { at: RIGHT * first.stride, stride: work.valueSteps * EDGE_UNITS + 1 };
  const scores = { at: second.at + RIGHT * second.stride, stride: RIGHT / 4 + 1 };
  const dP = { at: scores.at + LEFT * scores.stride, stride: scores.stride };
  const arena = dP.at + LEFT * dP.stride;
  return {
    ...work,
    own,
    first,
    second,
    scores,
    dP,
    arena,
    // beside the arena: the maxima of the threads, and in …Dkv lse and delta of the staged rows
    bytes: 16 * arena + 16 * THREADS + (work.sums > work.steps ? 8 * RIGHT : 0),
    registers:
      4 * (work.steps + work.valueSteps) + 8 * SUM_ROWS * own + (4 * (first.stride + second.stride)) / 8,
  };
}
