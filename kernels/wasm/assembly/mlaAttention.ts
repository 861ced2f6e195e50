/**
 * MLAAttention, F1-F4 of gradients/README.md with the softmax online (FlashAttention-2, arXiv:2307.08691,
 * algorithm 1). MLADecode runs the same code on the cache.
 *
 * The walk packs RIGHT keys and values once, then takes the tile's rows four by four through all steps, so that their
 * scores never leave the first cache:
 *   scores = Q·Kᵀ → P = exp(scores − max) → sums = sums · alpha + P·V
 */
import { log } from './host';
import { Operand, columnPanels, depthOf, packColumns, packPanels, packRows, rowAt } from './operands';
import { Problem, Tensor, rowsOf } from './problem';
import {
  beginQueryTile,
  firstRow,
  keyHead,
  placeQueryTile,
  queryHeads,
  rowCount,
  statOffset,
} from './queryTile';
import { takeFloats } from './scratch';
import { exp, maxOfLanes, splat, sumOfLanes } from './simd';
import { LEFT, PANEL, QUAD, RIGHT, fill, multiplyQuad, panelsOf, scale, writeRow } from './tile';
import { beginQuad, beginRow, quadFrom, quadTo, rowFrom, rowTo, seenFrom, seenTo } from './visibility';

let depth: i32 = 0;
let width: i32 = 0;
let q: usize = 0; // [LEFT][depth]
let k: usize = 0; // panels of keys, [depth][8]
let v: usize = 0; // panels of columns, [RIGHT][8]
let p: usize = 0; // [4][RIGHT], scores before
let sums: usize = 0; // [LEFT][width]
let rowMax: usize = 0; // [LEFT]
let rowTotal: usize = 0; // [LEFT]

export function placeForward(problem: Problem): void {
  depth = depthOf(problem, Operand.key);
  width = columnPanels(problem, Operand.value) * PANEL;
  placeQueryTile();
  q = takeFloats(LEFT * depth);
  k = takeFloats(RIGHT * depth);
  v = takeFloats(RIGHT * width);
  p = takeFloats(QUAD * RIGHT);
  sums = takeFloats(LEFT * width);
  rowMax = takeFloats(LEFT);
  rowTotal = takeFloats(LEFT);
}

export function attendTile(problem: Problem, unit: i32): void {
  beginQueryTile(problem, unit);
  packRows(q, problem, Operand.query, queryHeads, firstRow, rowCount);
  fill(sums, LEFT * width, 0);
  fill(rowMax, LEFT, -Infinity);
  fill(rowTotal, LEFT, 0);
  for (let key = seenFrom; key < seenTo; key += RIGHT) {
    const count = min(RIGHT, seenTo - key);
    packColumns(k, problem, Operand.key, keyHead, key, count);
    packPanels(v, problem, Operand.value, keyHead, key, count);
    for (let quad = 0; quad < rowCount; quad += QUAD) attendQuad(quad, key, count);
  }
  for (let row = 0; row < rowCount; row++) writeResult(problem, row);
}

/** Four rows and the keys [key, key + count). */
function attendQuad(quad: i32, key: i32, count: i32): void {
  beginQuad(quad, key, count);
  const seen = quadTo - quadFrom;
  if (seen <= 0) return;
  const panels = panelsOf(seen);
  // F1
  const keys = k + 4 * quadFrom * depth;
  multiplyQuad(p, RIGHT, q + 4 * quad * depth, depth, keys, PANEL * depth, panels, depth, false);
  // F2, F3 so far
  for (let row = quad; row < quad + QUAD; row++) {
    const alpha = weighRow(p + 4 * (row - quad) * RIGHT, row, key + quadFrom, panels * PANEL);
    if (alpha !== 1) scale(sums + 4 * row * width, width, alpha);
  }
  // F4 so far
  const values = v + 4 * quadFrom * PANEL;
  multiplyQuad(sums + 4 * quad * width, width, p, RIGHT, values, PANEL * RIGHT, width / PANEL, seen, true);
}

/**
 * Turns a row's scores of the keys [key, key + count) into weights against the greatest score so far, and returns what
 * its sums so far have to be multiplied by. Keys that the row does not see get 0.
 */
function weighRow(scores: usize, row: i32, key: i32, count: i32): f32 {
  beginRow(row, key, count);
  if (rowFrom >= rowTo) {
    fill(scores, count, 0);
    return 1;
  }
  fill(scores, rowFrom, -Infinity);
  fill(scores + 4 * rowTo, count - rowTo, -Infinity);

  const end = scores + 4 * count;
  const oldMax = load<f32>(rowMax + 4 * row);
  let greatest = splat(oldMax);
  for (let at = scores; at < end; at += 16) greatest = f32x4.pmax(greatest, v128.load(at));
  const newMax = maxOfLanes(greatest);
  const alpha = f32x4.extract_lane(exp(splat(oldMax - newMax)), 0);
  let total = splat(0);
  for (let at = scores; at < end; at += 16) {
    const weights = exp(f32x4.sub(v128.load(at), splat(newMax)));
    v128.store(at, weights);
    total = f32x4.add(total, weights);
  }
  store<f32>(rowMax + 4 * row, newMax);
  store<f32>(rowTotal + 4 * row, load<f32>(rowTotal + 4 * row) * alpha + sumOfLanes(total));
  return alpha;
}

/** out and lse of a row; 0 and -Infinity if it saw nothing. */
function writeResult(problem: Problem, row: i32): void {
  const greatest = load<f32>(rowMax + 4 * row);
  const total = load<f32>(rowTotal + 4 * row);
  const isSeeing = total !== 0;
  const out = rowAt(rowsOf(problem, Tensor.out), queryHeads, firstRow + row);
  writeRow(out, sums + 4 * row * width, problem.dv, isSeeing ? 1 / total : 0);
  const lse: f32 = isSeeing ? greatest + (log(total) as f32) : -Infinity;
  store<f32>(problem.lse + statOffset(problem, queryHeads, firstRow + row), lse);
}
