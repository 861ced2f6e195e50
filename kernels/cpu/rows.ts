import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { unpackFloat16 } from '../../src/core/float16.js';
import type { Strides } from '../../src/core/layout.js';
import { qRopeOffset } from '../../src/core/problem.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { clampLength } from '../../src/core/visibility.js';

/** The rows of one tensor as the mathematics sees them: row (b, s, h) begins at `startOf`. */
export interface Rows {
  values: Float32Array;
  strides: Strides;
  /** columns to skip in every row */
  offset: number;
}

export function startOf({ strides, offset }: Rows, b: number, s: number, h: number): number {
  return b * strides.b + s * strides.s + h * strides.h + offset;
}

/** What both ops attend over; in MLADecode k and v are the same rows. */
export interface Operands {
  q: Rows;
  qRope: Rows;
  k: Rows;
  kRope: Rows;
  v: Rows;
  qLengths: number[];
  kvLengths: number[];
}

export interface OperandInfos {
  q: TensorInfo;
  qRope: TensorInfo;
  k: TensorInfo;
  kRope: TensorInfo;
  v: TensorInfo;
  qLengths?: TensorInfo;
  kvLengths: TensorInfo;
}

export function operandsOf(problem: MlaProblem, infos: OperandInfos, backend: MathBackendCPU): Operands {
  const { b, sq, skv, strides, hasQLengths, hasKvLengths, cacheFormat } = problem;
  const rows = (info: TensorInfo, rowStrides: Strides, offset = 0): Rows => ({
    values: floatsOf(backend, info),
    strides: rowStrides,
    offset,
  });
  const cacheRows = (info: TensorInfo, rowStrides: Strides): Rows =>
    cacheFormat === 'float32'
      ? rows(info, rowStrides)
      : { values: unpackFloat16(integersOf(backend, info)), strides: rowStrides, offset: 0 };
  const lengths = (info: TensorInfo | undefined, isGiven: boolean, size: number): number[] =>
    isGiven && info
      ? Array.from(integersOf(backend, info), (length) => clampLength(length, size))
      : Array.from({ length: b }, () => size);
  const k = cacheRows(infos.k, strides.k);
  return {
    q: rows(infos.q, strides.q),
    qRope: rows(infos.qRope, strides.qRope, qRopeOffset(problem)),
    k,
    kRope: cacheRows(infos.kRope, strides.kRope),
    v: infos.v === infos.k ? k : rows(infos.v, strides.v),
    qLengths: lengths(infos.qLengths, hasQLengths, sq),
    kvLengths: lengths(infos.kvLengths, hasKvLengths, skv),
  };
}

/** Rows of a result that lie like those of `strides`, on values that the caller owns. */
export function resultRows(values: Float32Array, strides: Strides, offset = 0): Rows {
  return { values, strides, offset };
}

export function floatsOf(backend: MathBackendCPU, info: TensorInfo): Float32Array {
  return backend.data.get(info.dataId).values as Float32Array;
}

export function integersOf(backend: MathBackendCPU, info: TensorInfo): Int32Array {
  return backend.data.get(info.dataId).values as Int32Array;
}

/** x·y over n columns, in float64. */
export function dot(x: Float32Array, xStart: number, y: Float32Array, yStart: number, n: number): number {
  let sum = 0;
  for (let c = 0; c < n; c++) sum += x[xStart + c] * y[yStart + c];
  return sum;
}

/** A run of rows of one head, `step` elements apart. */
export interface Run {
  values: Float32Array;
  start: number;
  step: number;
}

/** The rows from position s on of head h. */
export function runFrom(rows: Rows, b: number, s: number, h: number): Run {
  return { values: rows.values, start: startOf(rows, b, s, h), step: rows.strides.s };
}

/** sums[j] += x · row j of the run, for `count` rows of n columns. Four rows at a time: x is read once for all. */
export function addDots(
  sums: Float64Array,
  x: Float32Array,
  xStart: number,
  { values: y, start, step }: Run,
  count: number,
  n: number,
): void {
  let j = 0;
  for (; j + 3 < count; j += 4) {
    const y0 = start + j * step;
    const y1 = y0 + step;
    const y2 = y1 + step;
    const y3 = y2 + step;
    let sum0 = 0;
    let sum1 = 0;
    let sum2 = 0;
    let sum3 = 0;
    for (let c = 0; c < n; c++) {
      const xc = x[xStart + c];
      sum0 += xc * y[y0 + c];
      sum1 += xc * y[y1 + c];
      sum2 += xc * y[y2 + c];
      sum3 += xc * y[y3 + c];
    }
    sums[j] += sum0;
    sums[j + 1] += sum1;
    sums[j + 2] += sum2;
    sums[j + 3] += sum3;
  }
  for (; j < count; j++) sums[j] += dot(x, xStart, y, start + j * step, n);
}

/** sum[c] += Σ_j factors[j] · row j of the run, for `count` rows of n columns; four rows at a time likewise. */
export function addRows(
  sum: Float64Array,
  factors: Float64Array,
  { values: y, start, step }: Run,
  count: number,
  n: number,
): void {
  let j = 0;
  for (; j + 3 < count; j += 4) {
    const y0 = start + j * step;
    const y1 = y0 + step;
    const y2 = y1 + step;
    const y3 = y2 + step;
    const f0 = factors[j];
    const f1 = factors[j + 1];
    const f2 = factors[j + 2];
    const f3 = factors[j + 3];
    for (let c = 0; c < n; c++) {
      sum[c] += f0 * y[y0 + c] + f1 * y[y1 + c] + f2 * y[y2 + c] + f3 * y[y3 + c];
    }
  }
  for (; j < count; j++) {
    const y0 = start + j * step;
    for (let c = 0; c < n; c++) sum[c] += factors[j] * y[y0 + c];
  }
}

/** Writes n sums, times `factor`, as float32. */
export function writeRow(
  values: Float32Array,
  start: number,
  sum: Float64Array,
  factor: number,
  n: number,
): void {
  for (let c = 0; c < n; c++) values[start + c] = sum[c] * factor;
}
