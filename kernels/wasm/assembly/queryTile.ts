/** What the forward and Dq share: a unit of work owns LEFT packed rows of queries and walks over the keys they see. */
import { Heads } from './operands';
import { Problem } from './problem';
import { takeBytes } from './scratch';
import { LEFT } from './tile';
import { joinRanges, keysThatExist, placeRanges, rangeOf, rowsThatExist, setVisibleKeys } from './visibility';

/** The heads that the tile's rows belong to, and the one of its keys. */
export let queryHeads: Heads = changetype<Heads>(0);
export let keyHead: Heads = changetype<Heads>(0);
export let firstRow: i32 = 0;
export let rowCount: i32 = 0;

export function placeQueryTile(): void {
  queryHeads = changetype<Heads>(takeBytes(offsetof<Heads>()));
  keyHead = changetype<Heads>(takeBytes(offsetof<Heads>()));
  placeRanges(LEFT);
}

export function queryTiles(problem: Problem): i32 {
  if (problem.hkv === 0) return 0;
  const rows = problem.sq * (problem.hq / problem.hkv);
  return ((rows + LEFT - 1) / LEFT) * problem.batch * problem.hkv;
}

/** Looks at the tile of a unit. The last tiles, which see most under a causal mask, have the highest numbers. */
export function beginQueryTile(problem: Problem, unit: i32): void {
  const pairs = problem.batch * problem.hkv;
  const group = problem.hq / problem.hkv;
  const batch = (unit % pairs) / problem.hkv;
  const kvHead = unit % problem.hkv;
  queryHeads.set(batch, kvHead * group, group);
  keyHead.set(batch, kvHead, 1);
  firstRow = (unit / pairs) * LEFT;
  rowCount = min(LEFT, problem.sq * group - firstRow);

  const qLength = rowsThatExist(problem, batch);
  const kvLength = keysThatExist(problem, batch);
  for (let row = 0; row < rowCount; row++) {
    setVisibleKeys(rangeOf(row), problem, (firstRow + row) / group, qLength, kvLength);
  }
  joinRanges(rowCount);
}

/** Where the numbers of a row stand in [b, hq, sq], in bytes. */
export function statOffset(problem: Problem, heads: Heads, row: i32): usize {
  const head = heads.batch * problem.hq + heads.first + (row % heads.count);
  return ((head * problem.sq + row / heads.count) as usize) << 2;
}
