/**
 * MLAAttentionDkv and MLADecodeDkv, B2, B3, B5-B7 of gradients/README.md. A unit of work owns LEFT keys of a batch entry
 * and walks, head by head, over the rows that see them, RIGHT at a time; then four keys at a time, all transposed:
 *   scoresᵀ = K·Qᵀ, dPᵀ = V·dOutᵀ → Pᵀ = exp(scores − lse), dSᵀ = P·(dP − delta) → dV += Pᵀ·dOut, dK += dSᵀ·Q
 * The rope part of dK is summed over all heads in the order of the heads.
 */
import { Heads, Operand, columnPanels, depthOf, packColumns, packPanels, packRows, rowAt } from './operands';
import { Problem, Tensor, rowsOf } from './problem';
import { statOffset } from './queryTile';
import { takeBytes, takeFloats } from './scratch';
import { exp } from './simd';
import { LEFT, PANEL, QUAD, RIGHT, fill, multiplyQuad, panelsOf, writeRow } from './tile';
import {
  beginQuad,
  beginRow,
  joinRanges,
  keysThatExist,
  placeRanges,
  quadFrom,
  quadTo,
  rangeOf,
  rowFrom,
  rowTo,
  rowsThatExist,
  seenFrom,
  seenTo,
  setSeeingRows,
} from './visibility';

let queryHeads: Heads = changetype<Heads>(0);
let keyHead: Heads = changetype<Heads>(0);
let firstKey: i32 = 0;
let keyCount: i32 = 0;

let depth: i32 = 0;
let dv: i32 = 0;
let nopeWidth: i32 = 0;
let ropeWidth: i32 = 0;
let valueWidth: i32 = 0;
let k: usize = 0; // [LEFT][depth]
let v: usize = 0; // [LEFT][dv]
let q: usize = 0; // panels of rows, [depth][8]
let dOut: usize = 0; // panels of rows, [dv][8]
let qPanels: usize = 0; // panels of columns, [RIGHT][8]
let dOutPanels: usize = 0; // panels of columns, [RIGHT][8]
let lse: usize = 0; // [RIGHT]
let delta: usize = 0; // [RIGHT]
let p: usize = 0; // [4][RIGHT], scores before
let dS: usize = 0; // [4][RIGHT], dP before
let dK: usize = 0; // [LEFT][nopeWidth]
let dKRope: usize = 0; // [LEFT][ropeWidth]
let dV: usize = 0; // [LEFT][valueWidth]

export function placeDkv(problem: Problem): void {
  depth = depthOf(problem, Operand.key);
  dv = problem.dv;
  nopeWidth = panelsOf(problem.dn) * PANEL;
  ropeWidth = panelsOf(problem.dr) * PANEL;
  valueWidth = panelsOf(dv) * PANEL;
  queryHeads = changetype<Heads>(takeBytes(offsetof<Heads>()));
  keyHead = changetype<Heads>(takeBytes(offsetof<Heads>()));
  placeRanges(LEFT);
  k = takeFloats(LEFT * depth);
  v = takeFloats(LEFT * dv);
  q = takeFloats(RIGHT * depth);
  dOut = takeFloats(RIGHT * dv);
  qPanels = takeFloats(RIGHT * (nopeWidth + ropeWidth));
  dOutPanels = takeFloats(RIGHT * valueWidth);
  lse = takeFloats(RIGHT);
  delta = takeFloats(RIGHT);
  p = takeFloats(QUAD * RIGHT);
  dS = takeFloats(QUAD * RIGHT);
  dK = takeFloats(LEFT * nopeWidth);
  dKRope = takeFloats(LEFT * ropeWidth);
  // the latent is key and value: one sum takes both
  dV = problem.isDecode ? dK : takeFloats(LEFT * valueWidth);
}

export function keyTiles(problem: Problem): i32 {
  return ((problem.skv + LEFT - 1) / LEFT) * problem.batch;
}

/** The first tiles, which most rows see under a causal mask, have the highest numbers. */
export function dkvOfTile(problem: Problem, unit: i32): void {
  const batch = unit % problem.batch;
  const tile = (problem.skv + LEFT - 1) / LEFT - 1 - unit / problem.batch;
  const group = problem.hq / max(problem.hkv, 1);
  keyHead.set(batch, 0, 1);
  firstKey = tile * LEFT;
  keyCount = min(LEFT, problem.skv - firstKey);

  const qLength = rowsThatExist(problem, batch);
  const kvLength = keysThatExist(problem, batch);
  for (let key = 0; key < keyCount; key++) {
    const range = rangeOf(key);
    setSeeingRows(range, problem, firstKey + key, qLength, kvLength);
    range.set(range.lo * group, range.hi * group);
  }
  joinRanges(keyCount);

  fill(dKRope, LEFT * ropeWidth, 0);
  for (let kvHead = 0; kvHead < problem.hkv; kvHead++) {
    queryHeads.set(batch, kvHead * group, group);
    keyHead.set(batch, kvHead, 1);
    dkvOfHead(problem);
  }
  for (let key = 0; key < keyCount; key++) {
    const to = rowAt(rowsOf(problem, Tensor.dKRope), keyHead, firstKey + key);
    writeRow(to, dKRope + 4 * key * ropeWidth, problem.dr, 1);
  }
}

function dkvOfHead(problem: Problem): void {
  packRows(k, problem, Operand.key, keyHead, firstKey, keyCount);
  packRows(v, problem, Operand.value, keyHead, firstKey, keyCount);
  fill(dK, LEFT * nopeWidth, 0);
  fill(dV, LEFT * valueWidth, 0);
  for (let row = seenFrom; row < seenTo; row += RIGHT) {
    const count = min(RIGHT, seenTo - row);
    packColumns(q, problem, Operand.query, queryHeads, row, count);
    packColumns(dOut, problem, Operand.dOut, queryHeads, row, count);
    packPanels(qPanels, problem, Operand.query, queryHeads, row, count);
    packPanels(dOutPanels, problem, Operand.dOut, queryHeads, row, count);
    for (let n = 0; n < count; n++) {
      const stat = statOffset(problem, queryHeads, row + n);
      store<f32>(lse + 4 * n, load<f32>(problem.lse + stat));
      store<f32>(delta + 4 * n, load<f32>(problem.delta + stat));
    }
    for (let quad = 0; quad < keyCount; quad += QUAD) dkvOfQuad(quad, row, count);
  }
  for (let key = 0; key < keyCount; key++) {
    const dKRow = rowAt(rowsOf(problem, Tensor.dK), keyHead, firstKey + key);
    writeRow(dKRow, dK + 4 * key * nopeWidth, problem.dn, 1);
    if (problem.isDecode) continue;
    const dVRow = rowAt(rowsOf(problem, Tensor.dV), keyHead, firstKey + key);
    writeRow(dVRow, dV + 4 * key * valueWidth, dv, 1);
  }
}

/** Four keys and the rows [row, row + count). */
function dkvOfQuad(quad: i32, row: i32, count: i32): void {
  beginQuad(quad, row, count);
  const seen = quadTo - quadFrom;
  if (seen <= 0) return;
  const panels = panelsOf(seen);
  // F1
  const queries = q + 4 * quadFrom * depth;
  multiplyQuad(p, RIGHT, k + 4 * quad * depth, depth, queries, PANEL * depth, panels, depth, false);
  // B2
  const dOuts = dOut + 4 * quadFrom * dv;
  multiplyQuad(dS, RIGHT, v + 4 * quad * dv, dv, dOuts, PANEL * dv, panels, dv, false);
  // F3, B3
  for (let n = 0; n < QUAD; n++) {
    weighKey(p + 4 * n * RIGHT, dS + 4 * n * RIGHT, quad + n, row, panels * PANEL);
  }
  // B5
  const values = dOutPanels + 4 * quadFrom * PANEL;
  multiplyQuad(
    dV + 4 * quad * valueWidth,
    valueWidth,
    p,
    RIGHT,
    values,
    PANEL * RIGHT,
    valueWidth / PANEL,
    seen,
    true,
  );
  // B6, B7: queries are scaled already
  const nope = qPanels + 4 * quadFrom * PANEL;
  const rope = nope + 4 * nopeWidth * RIGHT;
  multiplyQuad(
    dK + 4 * quad * nopeWidth,
    nopeWidth,
    dS,
    RIGHT,
    nope,
    PANEL * RIGHT,
    nopeWidth / PANEL,
    seen,
    true,
  );
  multiplyQuad(
    dKRope + 4 * quad * ropeWidth,
    ropeWidth,
    dS,
    RIGHT,
    rope,
    PANEL * RIGHT,
    ropeWidth / PANEL,
    seen,
    true,
  );
}

/** Scores of a key with `count` rows become P, dP becomes dS; both 0 where the row does not see the key. */
function weighKey(scores: usize, dP: usize, key: i32, row: i32, count: i32): void {
  beginRow(key, row + quadFrom, count);
  if (rowFrom >= rowTo) {
    fill(scores, count, 0);
    fill(dP, count, 0);
    return;
  }
  const lseOfRows = lse + 4 * quadFrom;
  const deltaOfRows = delta + 4 * quadFrom;
  for (let at: usize = 0; at < 4 * (count as usize); at += 16) {
    const weights = exp(f32x4.sub(v128.load(scores + at), v128.load(lseOfRows + at)));
    v128.store(scores + at, weights);
    const difference = f32x4.sub(v128.load(dP + at), v128.load(deltaOfRows + at));
    v128.store(dP + at, f32x4.mul(weights, difference));
  }
  fill(scores, rowFrom, 0);
  fill(scores + 4 * rowTo, count - rowTo, 0);
  fill(dP, rowFrom, 0);
  fill(dP + 4 * rowTo, count - rowTo, 0);
}
