/**
 * MLAAttentionDq and MLADecodeDq, B2-B4 of gradients/README.md. The walk of mlaAttention.ts, four rows at a time:
 *   scores = Q·Kᵀ, dP = dOut·Vᵀ → P = exp(scores − lse), dS = P·(dP − delta) → sums += dS·K
 */
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
import { exp, splat } from './simd';
import { LEFT, PANEL, QUAD, RIGHT, fill, multiplyQuad, panelsOf, writeRow } from './tile';
import { beginQuad, beginRow, quadFrom, quadTo, rowFrom, rowTo, seenFrom, seenTo } from './visibility';

let depth: i32 = 0;
let dv: i32 = 0;
let width: i32 = 0;
let q: usize = 0; // [LEFT][depth]
let dOut: usize = 0; // [LEFT][dv]
let k: usize = 0; // panels of keys, [depth][8]
let v: usize = 0; // panels of keys, [dv][8]
let kPanels: usize = 0; // panels of columns, [RIGHT][8]
let p: usize = 0; // [4][RIGHT], scores before
let dS: usize = 0; // [4][RIGHT], dP before
let sums: usize = 0; // [LEFT][width]

export function placeDq(problem: Problem): void {
  depth = depthOf(problem, Operand.key);
  dv = problem.dv;
  width = columnPanels(problem, Operand.key) * PANEL;
  placeQueryTile();
  q = takeFloats(LEFT * depth);
  dOut = takeFloats(LEFT * dv);
  k = takeFloats(RIGHT * depth);
  v = takeFloats(RIGHT * dv);
  kPanels = takeFloats(RIGHT * width);
  p = takeFloats(QUAD * RIGHT);
  dS = takeFloats(QUAD * RIGHT);
  sums = takeFloats(LEFT * width);
}

export function dqOfTile(problem: Problem, unit: i32): void {
  beginQueryTile(problem, unit);
  packRows(q, problem, Operand.query, queryHeads, firstRow, rowCount);
  packRows(dOut, problem, Operand.dOut, queryHeads, firstRow, rowCount);
  fill(sums, LEFT * width, 0);
  for (let key = seenFrom; key < seenTo; key += RIGHT) {
    const count = min(RIGHT, seenTo - key);
    packColumns(k, problem, Operand.key, keyHead, key, count);
    packColumns(v, problem, Operand.value, keyHead, key, count);
    packPanels(kPanels, problem, Operand.key, keyHead, key, count);
    for (let quad = 0; quad < rowCount; quad += QUAD) dqOfQuad(problem, quad, key, count);
  }
  for (let row = 0; row < rowCount; row++) writeDq(problem, row);
}

/** Four rows and the keys [key, key + count). */
function dqOfQuad(problem: Problem, quad: i32, key: i32, count: i32): void {
  beginQuad(quad, key, count);
  const seen = quadTo - quadFrom;
  if (seen <= 0) return;
  const panels = panelsOf(seen);
  // F1
  const keys = k + 4 * quadFrom * depth;
  multiplyQuad(p, RIGHT, q + 4 * quad * depth, depth, keys, PANEL * depth, panels, depth, false);
  // B2
  const values = v + 4 * quadFrom * dv;
  multiplyQuad(dS, RIGHT, dOut + 4 * quad * dv, dv, values, PANEL * dv, panels, dv, false);
  // F3, B3
  for (let n = 0; n < QUAD; n++) {
    dsOfRow(problem, p + 4 * n * RIGHT, dS + 4 * n * RIGHT, quad + n, key + quadFrom, panels * PANEL);
  }
  // B4
  const columns = kPanels + 4 * quadFrom * PANEL;
  multiplyQuad(sums + 4 * quad * width, width, dS, RIGHT, columns, PANEL * RIGHT, width / PANEL, seen, true);
}

/** dP of a row and the keys [key, key + count) becomes dS, 0 where the row does not see the key. */
function dsOfRow(problem: Problem, scores: usize, dP: usize, row: i32, key: i32, count: i32): void {
  beginRow(row, key, count);
  if (rowFrom >= rowTo) {
    fill(dP, count, 0);
    return;
  }
  const stat = statOffset(problem, queryHeads, firstRow + row);
  const lse = splat(load<f32>(problem.lse + stat));
  const delta = splat(load<f32>(problem.delta + stat));
  for (let at: usize = 0; at < 4 * (count as usize); at += 16) {
    const weights = exp(f32x4.sub(v128.load(scores + at), lse));
    v128.store(dP + at, f32x4.mul(weights, f32x4.sub(v128.load(dP + at), delta)));
  }
  fill(dP, rowFrom, 0);
  fill(dP + 4 * rowTo, count - rowTo, 0);
}

function writeDq(problem: Problem, row: i32): void {
  const rowSums = sums + 4 * row * width;
  const ropeSums = rowSums + 4 * panelsOf(problem.dn) * PANEL;
  const scale = problem.softmaxScale;
  writeRow(rowAt(rowsOf(problem, Tensor.dQ), queryHeads, firstRow + row), rowSums, problem.dn, scale);
  writeRow(rowAt(rowsOf(problem, Tensor.dQRope), queryHeads, firstRow + row), ropeSums, problem.dr, scale);
}
