/**
 * The forward of both ops, F1-F4 of gradients/README.md: a row at a time, sums in float64, O(skv) memory.
 * A newcomer should begin here.
 */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { shapeOf, sizeOf } from '../../src/core/layout.js';
import type { AttentionInputs } from '../../src/core/kernelInputs.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { visibleKeys } from '../../src/core/visibility.js';
import { addDots, addRows, operandsOf, resultRows, runFrom, startOf, writeRow } from './rows.js';
import type { OperandInfos, Operands } from './rows.js';

/** MLAAttention: q, k, v, kRope, qLengths, kvLengths → out, lse. */
export function mlaAttention(
  problem: MlaProblem,
  { q, k, v, kRope, qLengths, kvLengths }: AttentionInputs,
  backend: MathBackendCPU,
): TensorInfo[] {
  return attend(problem, { q, qRope: q, k, kRope, v, qLengths, kvLengths }, backend);
}

/** out and lse of all rows. */
export function attend(problem: MlaProblem, infos: OperandInfos, backend: MathBackendCPU): TensorInfo[] {
  const { b, hq, sq, skv, dv, layout, strides } = problem;
  const operands = operandsOf(problem, infos, backend);
  const outShape = shapeOf({ b, s: sq, h: hq, d: dv }, layout);
  const out = resultRows(new Float32Array(sizeOf(outShape)), strides.out);
  const lse = new Float32Array(b * hq * sq).fill(-Infinity);
  const p = new Float64Array(skv);
  const sum = new Float64Array(dv);

  forEachRow(problem, operands, (row) => {
    const { scores, lo, hi } = row;
    const count = hi - lo;
    // F2
    let max = -Infinity;
    for (let j = 0; j < count; j++) max = Math.max(max, scores[j]);
    let total = 0;
    for (let j = 0; j < count; j++) total += p[j] = Math.exp(scores[j] - max);
    lse[row.stat] = max + Math.log(total);

    // F3, F4: p still lacks the division by the total
    sum.fill(0);
    addRows(sum, p, runFrom(operands.v, row.b, lo, row.kvHead), count, dv);
    writeRow(out.values, startOf(out, row.b, row.i, row.h), sum, 1 / total, dv);
  });
  return [
    backend.makeTensorInfo(outShape, 'float32', out.values),
    backend.makeTensorInfo([b, hq, sq], 'float32', lse),
  ];
}

/** A row that sees at least one key, with F1 done: scores[j] belongs to key lo + j, up to hi. */
export interface Row {
  b: number;
  h: number;
  kvHead: number;
  i: number;
  /** where the row's numbers stand in [b, hq, sq] */
  stat: number;
  lo: number;
  hi: number;
  scores: Float64Array;
}

/** Visits every row that sees a key; the visitor must not keep `row`. */
export function forEachRow(problem: MlaProblem, operands: Operands, visit: (row: Row) => void): void {
  const { b: batch, hq, hkv, sq, skv, dn, dr, softmaxScale } = problem;
  const { q, qRope, k, kRope, qLengths, kvLengths } = operands;
  const scores = new Float64Array(skv);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < hq; h++) {
      const kvHead = Math.floor((h * hkv) / hq);
      for (let i = 0; i < sq; i++) {
        const [lo, hi] = visibleKeys(problem, i, qLengths[b], kvLengths[b]);
        if (lo === hi) continue;
        // F1
        const count = hi - lo;
        scores.fill(0, 0, count);
        addDots(scores, q.values, startOf(q, b, i, h), runFrom(k, b, lo, kvHead), count, dn);
        addDots(scores, qRope.values, startOf(qRope, b, i, h), runFrom(kRope, b, lo, 0), count, dr);
        for (let j = 0; j < count; j++) scores[j] *= softmaxScale;
        visit({ b, h, kvHead, i, stat: (b * hq + h) * sq + i, lo, hi, scores });
      }
    }
  }
}
