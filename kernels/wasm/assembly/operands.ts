/**
 * The operands of a tile's products, packed for SIMD out of tensors that may lie anyhow: as rows for the left side, as
 * columns of panels (transposed) or as panels of columns for the right side.
 */
import { Problem, Rows, Tensor, rowsOf } from './problem';
import { takeFloats } from './scratch';
import { splat, widen } from './simd';
import { PANEL, PANEL_BYTES, QUAD, RIGHT, panelsOf } from './tile';

/** What a tile multiplies. The rows of the first two are [nope | rope], of two tensors; queries come scaled. */
export const enum Operand {
  query,
  key,
  value,
  dOut,
}

/** The heads that a tile's rows belong to. Its rows go position by position, and at each through all the heads. */
@unmanaged
export class Heads {
  batch!: i32;
  first!: i32;
  count!: i32;

  @inline
  set(batch: i32, first: i32, count: i32): void {
    this.batch = batch;
    this.first = first;
    this.count = count;
  }
}

export function rowAt(rows: Rows, heads: Heads, row: i32): usize {
  return rows.at(heads.batch, row / heads.count, heads.first + (row % heads.count));
}

/** Columns of an operand: the depth of products over them. */
export function depthOf(problem: Problem, operand: Operand): i32 {
  return nopeOf(problem, operand) + ropeOf(problem, operand);
}

/** Panels of an operand's columns: those of nope, then those of rope. */
export function columnPanels(problem: Problem, operand: Operand): i32 {
  return panelsOf(nopeOf(problem, operand)) + panelsOf(ropeOf(problem, operand));
}

let nope: i32 = 0;
let rope: i32 = 0;
let factor: f32 = 0;
let isPacked: bool = false;
let nopeRows: Rows = changetype<Rows>(0);
let ropeRows: Rows = changetype<Rows>(0);

/** Sets what the packing of an operand reads. */
function lookAt(problem: Problem, operand: Operand): void {
  nope = nopeOf(problem, operand);
  rope = ropeOf(problem, operand);
  factor = operand === Operand.query ? problem.softmaxScale : 1;
  isPacked = problem.isPacked !== 0 && (operand === Operand.key || operand === Operand.value);
  nopeRows = rowsOf(problem, tensorOf(operand));
  ropeRows = rowsOf(problem, operand === Operand.query ? Tensor.qRope : Tensor.kRope);
}

let unpacked: usize = 0; // [4][unpackedBytes / 4]
let unpackedBytes: usize = 0;

/** Takes room for four rows of a packed cache as float32. */
export function placeUnpacked(problem: Problem): void {
  if (problem.isPacked === 0) return;
  unpackedBytes = PANEL_BYTES * panelsOf(max(problem.dn, max(problem.dr, problem.dv)));
  unpacked = takeFloats(QUAD * ((unpackedBytes >> 2) as i32));
}

/** Where a row stands as float32: in its tensor, or unpacked, as the n-th of four. */
function floatsAt(rows: Rows, heads: Heads, row: i32, columns: i32, n: i32): usize {
  const from = rowAt(rows, heads, row);
  if (!isPacked) return from;
  const to = unpacked + (n as usize) * unpackedBytes;
  unpack(to, from, columns);
  return to;
}

function unpack(to: usize, from: usize, columns: i32): void {
  for (; columns >= 4; columns -= 4, from += 8, to += 16) v128.store(to, widen(v128.load16x4_u(from)));
  // columns are even: a word is left, or nothing
  if (columns > 0) v128.store(to, widen(i32x4.extend_low_i16x8_u(v128.load32_zero(from))));
}

/** [count][depth]; the last row again until there are whole quads. */
export function packRows(
  to: usize,
  problem: Problem,
  operand: Operand,
  heads: Heads,
  first: i32,
  count: i32,
): void {
  lookAt(problem, operand);
  for (let r = 0; r < count || r % QUAD !== 0; r++) {
    const row = first + min(r, count - 1);
    copyRow(to, floatsAt(nopeRows, heads, row, nope, 0), nope, factor);
    to += 4 * nope;
    if (rope > 0) copyRow(to, floatsAt(ropeRows, heads, row, rope, 0), rope, factor);
    to += 4 * rope;
  }
}

/** Panels of eight rows, [depth][8]; the last row again until there are whole panels. */
export function packColumns(
  to: usize,
  problem: Problem,
  operand: Operand,
  heads: Heads,
  first: i32,
  count: i32,
): void {
  lookAt(problem, operand);
  for (let r = 0; r < count; r += PANEL) {
    transpose(to, nopeRows, heads, first, r, count, nope, factor);
    to += PANEL_BYTES * nope;
    if (rope > 0) transpose(to, ropeRows, heads, first, r, count, rope, factor);
    to += PANEL_BYTES * rope;
  }
}

/** Panels of eight columns, [RIGHT][8] with `count` rows in them; with zeros until there are whole panels. */
export function packPanels(
  to: usize,
  problem: Problem,
  operand: Operand,
  heads: Heads,
  first: i32,
  count: i32,
): void {
  lookAt(problem, operand);
  const panelBytes = PANEL_BYTES * RIGHT;
  const toRope = to + panelBytes * panelsOf(nope);
  for (let r = 0; r < count; r++) {
    const at = PANEL_BYTES * r;
    spreadRow(to + at, panelBytes, floatsAt(nopeRows, heads, first + r, nope, 0), nope, factor);
    if (rope > 0)
      spreadRow(toRope + at, panelBytes, floatsAt(ropeRows, heads, first + r, rope, 0), rope, factor);
  }
}

function nopeOf(problem: Problem, operand: Operand): i32 {
  return operand <= Operand.key ? problem.dn : problem.dv;
}

function ropeOf(problem: Problem, operand: Operand): i32 {
  return operand <= Operand.key ? problem.dr : 0;
}

function tensorOf(operand: Operand): Tensor {
  if (operand === Operand.query) return Tensor.q;
  if (operand === Operand.key) return Tensor.k;
  return operand === Operand.value ? Tensor.v : Tensor.dOut;
}

function copyRow(to: usize, from: usize, columns: i32, factor: f32): void {
  const factors = splat(factor);
  const end = from + 4 * columns;
  for (; from + 12 < end; from += 16, to += 16) v128.store(to, f32x4.mul(factors, v128.load(from)));
  for (; from < end; from += 4, to += 4) store<f32>(to, factor * load<f32>(from));
}

function spreadRow(to: usize, panelBytes: usize, from: usize, columns: i32, factor: f32): void {
  const factors = splat(factor);
  for (; columns >= PANEL; columns -= PANEL, from += PANEL_BYTES, to += panelBytes) {
    v128.store(to, f32x4.mul(factors, v128.load(from)));
    v128.store(to, f32x4.mul(factors, v128.load(from, 16)), 16);
  }
  if (columns === 0) return;
  for (let c = 0; c < PANEL; c++) {
    store<f32>(to + 4 * c, c < columns ? factor * load<f32>(from + 4 * c) : 0);
  }
}

/** Rows r to r + 7 of a tile as columns. */
function transpose(
  to: usize,
  rows: Rows,
  heads: Heads,
  first: i32,
  r: i32,
  count: i32,
  columns: i32,
  factor: f32,
): void {
  for (let half = 0; half < PANEL; half += 4) {
    transposeFour(
      to + 4 * half,
      floatsAt(rows, heads, first + min(r + half, count - 1), columns, 0),
      floatsAt(rows, heads, first + min(r + half + 1, count - 1), columns, 1),
      floatsAt(rows, heads, first + min(r + half + 2, count - 1), columns, 2),
      floatsAt(rows, heads, first + min(r + half + 3, count - 1), columns, 3),
      columns,
      factor,
    );
  }
}

function transposeFour(
  to: usize,
  row0: usize,
  row1: usize,
  row2: usize,
  row3: usize,
  columns: i32,
  factor: f32,
): void {
  const factors = splat(factor);
  for (; columns >= 4; columns -= 4) {
    const x0 = v128.load(row0);
    const x1 = v128.load(row1);
    const x2 = v128.load(row2);
    const x3 = v128.load(row3);
    const low01 = v128.shuffle<f32>(x0, x1, 0, 4, 1, 5);
    const low23 = v128.shuffle<f32>(x2, x3, 0, 4, 1, 5);
    const high01 = v128.shuffle<f32>(x0, x1, 2, 6, 3, 7);
    const high23 = v128.shuffle<f32>(x2, x3, 2, 6, 3, 7);
    v128.store(to, f32x4.mul(factors, v128.shuffle<f32>(low01, low23, 0, 1, 4, 5)));
    v128.store(to, f32x4.mul(factors, v128.shuffle<f32>(low01, low23, 2, 3, 6, 7)), PANEL_BYTES);
    v128.store(to, f32x4.mul(factors, v128.shuffle<f32>(high01, high23, 0, 1, 4, 5)), 2 * PANEL_BYTES);
    v128.store(to, f32x4.mul(factors, v128.shuffle<f32>(high01, high23, 2, 3, 6, 7)), 3 * PANEL_BYTES);
    row0 += 16;
    row1 += 16;
    row2 += 16;
    row3 += 16;
    to += 4 * PANEL_BYTES;
  }
  for (; columns > 0; columns--) {
    store<f32>(to, factor * load<f32>(row0));
    store<f32>(to, factor * load<f32>(row1), 4);
    store<f32>(to, factor * load<f32>(row2), 8);
    store<f32>(to, factor * load<f32>(row3), 12);
    row0 += 4;
    row1 += 4;
    row2 += 4;
    row3 += 4;
    to += PANEL_BYTES;
  }
}
