/**
 * Products of a tile: four rows of the left operand with panels of the right one. A panel is eight columns, [depth][8]:
 * one step of a product reads two vectors of it, side by side.
 */
import { addProduct, splat } from './simd';

/** Rows that a unit of work owns, and rows of the other operand that a step of its walk brings. */
export const LEFT: i32 = 64;
export const RIGHT: i32 = 64;

export const QUAD = 4;
export const PANEL = 8;
export const PANEL_BYTES = 4 * PANEL;

/** Panels that hold so many columns. */
export function panelsOf(columns: i32): i32 {
  return (columns + PANEL - 1) / PANEL;
}

/**
 * to = a · panels, or to += a · panels: four rows a[4][depth], so many panels [depth][8], side by side in
 * to[4][8 · panels]. Strides in floats. Here the time goes: eight sums stay in registers, and a step of the depth takes
 * six loads and eight multiply-adds of four lanes.
 */
export function multiplyQuad(
  to: usize,
  toStride: i32,
  a: usize,
  aStride: i32,
  panel: usize,
  panelStride: i32,
  panels: i32,
  depth: i32,
  isAdding: bool,
): void {
  const toBytes: usize = 4 * toStride;
  const aBytes: usize = 4 * aStride;
  for (; panels > 0; panels--, panel += 4 * panelStride, to += PANEL_BYTES) {
    const to1 = to + toBytes;
    const to2 = to1 + toBytes;
    const to3 = to2 + toBytes;
    let sum00 = splat(0);
    let sum01 = splat(0);
    let sum10 = splat(0);
    let sum11 = splat(0);
    let sum20 = splat(0);
    let sum21 = splat(0);
    let sum30 = splat(0);
    let sum31 = splat(0);
    if (isAdding) {
      sum00 = v128.load(to);
      sum01 = v128.load(to, 16);
      sum10 = v128.load(to1);
      sum11 = v128.load(to1, 16);
      sum20 = v128.load(to2);
      sum21 = v128.load(to2, 16);
      sum30 = v128.load(to3);
      sum31 = v128.load(to3, 16);
    }
    let a0 = a;
    let a1 = a0 + aBytes;
    let a2 = a1 + aBytes;
    let a3 = a2 + aBytes;
    const end = panel + PANEL_BYTES * depth;
    for (let step = panel; step < end; step += PANEL_BYTES) {
      const y0 = v128.load(step);
      const y1 = v128.load(step, 16);
      const x0 = v128.load32_splat(a0);
      sum00 = addProduct(sum00, x0, y0);
      sum01 = addProduct(sum01, x0, y1);
      const x1 = v128.load32_splat(a1);
      sum10 = addProduct(sum10, x1, y0);
      sum11 = addProduct(sum11, x1, y1);
      const x2 = v128.load32_splat(a2);
      sum20 = addProduct(sum20, x2, y0);
      sum21 = addProduct(sum21, x2, y1);
      const x3 = v128.load32_splat(a3);
      sum30 = addProduct(sum30, x3, y0);
      sum31 = addProduct(sum31, x3, y1);
      a0 += 4;
      a1 += 4;
      a2 += 4;
      a3 += 4;
    }
    v128.store(to, sum00);
    v128.store(to, sum01, 16);
    v128.store(to1, sum10);
    v128.store(to1, sum11, 16);
    v128.store(to2, sum20);
    v128.store(to2, sum21, 16);
    v128.store(to3, sum30);
    v128.store(to3, sum31, 16);
  }
}

/** x[0, count) = value. */
export function fill(x: usize, count: i32, value: f32): void {
  const end = x + 4 * count;
  for (; x < end; x += 4) store<f32>(x, value);
}

/** x[0, count) *= factor; count is a multiple of 4. */
export function scale(x: usize, count: i32, factor: f32): void {
  const factors = splat(factor);
  const end = x + 4 * count;
  for (; x < end; x += 16) v128.store(x, f32x4.mul(factors, v128.load(x)));
}

/** to[0, count) = factor · from. */
export function writeRow(to: usize, from: usize, count: i32, factor: f32): void {
  const end = to + 4 * count;
  for (; to < end; to += 4, from += 4) store<f32>(to, factor * load<f32>(from));
}
