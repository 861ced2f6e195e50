/**
 * Who sees whom: src/core/visibility.ts in integers, and what of a tile's columns its rows see. The rows are queries
 * and the columns keys, or in Dkv the other way round.
 */
import { Problem } from './problem';
import { takeBytes } from './scratch';
import { PANEL, QUAD } from './tile';

/** [lo, hi), empty if lo = hi. */
@unmanaged
export class Range {
  lo!: i32;
  hi!: i32;

  @inline
  set(lo: i32, hi: i32): void {
    this.lo = hi > lo ? lo : 0;
    this.hi = hi > lo ? hi : 0;
  }
}

export function rowsThatExist(problem: Problem, batch: i32): i32 {
  return clampLength(problem.qLengths, batch, problem.sq);
}

export function keysThatExist(problem: Problem, batch: i32): i32 {
  return clampLength(problem.kvLengths, batch, problem.skv);
}

function clampLength(lengths: usize, batch: i32, size: i32): i32 {
  if (lengths === 0) return size;
  return min(max(load<i32>(lengths + ((batch as usize) << 2)), 0), size);
}

/** The keys that row i sees. */
export function setVisibleKeys(range: Range, problem: Problem, i: i32, qLength: i32, kvLength: i32): void {
  const diagonal = problem.isTopLeft ? i : i + kvLength - qLength;
  const hi = min(kvLength, diagonal + problem.right + 1);
  range.set(max(0, diagonal - problem.left), i < qLength ? hi : 0);
}

/** The rows that see key j. */
export function setSeeingRows(range: Range, problem: Problem, j: i32, qLength: i32, kvLength: i32): void {
  const diagonal = problem.isTopLeft ? j : j - kvLength + qLength;
  const hi = min(qLength, diagonal + problem.left + 1);
  range.set(max(0, diagonal - problem.right), j < kvLength ? hi : 0);
}

let ranges: usize = 0;
let rowCount: i32 = 0;

/** What any row of the tile sees. */
export let seenFrom: i32 = 0;
export let seenTo: i32 = 0;
/** What any row of a quad sees of the columns that a step of the walk brings. */
export let quadFrom: i32 = 0;
export let quadTo: i32 = 0;

/** What one row sees of some columns, counted from the first of them. */
export let rowFrom: i32 = 0;
export let rowTo: i32 = 0;

export function placeRanges(rows: i32): void {
  ranges = takeBytes((rows as usize) * offsetof<Range>());
}

/** What a row of the tile sees; set by the kernel for each of its rows. */
export function rangeOf(row: i32): Range {
  return changetype<Range>(ranges + (row as usize) * offsetof<Range>());
}

/** To be called when all ranges are set. */
export function joinRanges(rows: i32): void {
  rowCount = rows;
  seenFrom = i32.MAX_VALUE;
  seenTo = 0;
  for (let row = 0; row < rows; row++) {
    const range = rangeOf(row);
    if (range.lo === range.hi) continue;
    seenFrom = min(seenFrom, range.lo);
    seenTo = max(seenTo, range.hi);
  }
}

/**
 * Looks at four rows and the columns [first, first + count). Counted from `first`, the rows see only [quadFrom, quadTo);
 * quadFrom begins a panel. They see none if quadTo <= quadFrom.
 */
export function beginQuad(quad: i32, first: i32, count: i32): void {
  let from = count;
  let to = 0;
  for (let row = quad; row < min(quad + QUAD, rowCount); row++) {
    const range = rangeOf(row);
    if (range.lo === range.hi) continue;
    from = min(from, range.lo - first);
    to = max(to, range.hi - first);
  }
  quadFrom = max(from, 0) & ~(PANEL - 1);
  quadTo = min(to, count);
}

/** Looks at one row and the columns [first, first + count). It sees [rowFrom, rowTo) of them, none if that is empty. */
export function beginRow(row: i32, first: i32, count: i32): void {
  rowFrom = row < rowCount ? max(rangeOf(row).lo - first, 0) : 0;
  rowTo = row < rowCount ? min(rangeOf(row).hi - first, count) : 0;
}
