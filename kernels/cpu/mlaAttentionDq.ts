/** B2-B4 of gradients/README.md: the gradient of the queries, a row at a time like the forward. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { shapeOf, sizeOf } from '../../src/core/layout.js';
import type { AttentionInputs, BackwardInputs } from '../../src/core/kernelInputs.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { forEachRow } from './mlaAttention.js';
import { addDots, addRows, floatsOf, operandsOf, resultRows, runFrom, startOf, writeRow } from './rows.js';
import type { OperandInfos, Rows } from './rows.js';

/** MLAAttentionDq: q, k, v, kRope, qLengths, kvLengths, dOut, lse, delta → dQ. */
export function mlaAttentionDq(
  problem: MlaProblem,
  inputs: AttentionInputs & BackwardInputs,
  backend: MathBackendCPU,
): TensorInfo {
  const { b, hq, sq, dn, dr, layout, strides } = problem;
  const { q, k, v, kRope, qLengths, kvLengths } = inputs;
  const shape = shapeOf({ b, s: sq, h: hq, d: dn + dr }, layout);
  const dQ = new Float32Array(sizeOf(shape));
  attendDq(
    problem,
    { q, qRope: q, k, kRope, v, qLengths, kvLengths },
    inputs,
    { dQ: resultRows(dQ, strides.q), dQRope: resultRows(dQ, strides.qRope, dn) },
    backend,
  );
  return backend.makeTensorInfo(shape, 'float32', dQ);
}

/** Writes the gradient of every row that sees a key; the others stay as they are. */
export function attendDq(
  problem: MlaProblem,
  infos: OperandInfos,
  { dOut, lse, delta }: BackwardInputs,
  { dQ, dQRope }: { dQ: Rows; dQRope: Rows },
  backend: MathBackendCPU,
): void {
  const { skv, dn, dr, dv, softmaxScale, strides } = problem;
  const operands = operandsOf(problem, infos, backend);
  const { k, kRope, v } = operands;
  const dOutRows = resultRows(floatsOf(backend, dOut), strides.out);
  const lseValues = floatsOf(backend, lse);
  const deltaValues = floatsOf(backend, delta);
  const dS = new Float64Array(skv);
  const sum = new Float64Array(dn);
  const sumRope = new Float64Array(dr);

  forEachRow(problem, operands, ({ b, h, kvHead, i, stat, lo, hi, scores }) => {
    const count = hi - lo;
    // B2
    dS.fill(0, 0, count);
    addDots(dS, dOutRows.values, startOf(dOutRows, b, i, h), runFrom(v, b, lo, kvHead), count, dv);
    // F3, B3
    for (let j = 0; j < count; j++) {
      dS[j] = Math.exp(scores[j] - lseValues[stat]) * (dS[j] - deltaValues[stat]);
    }
    // B4
    sum.fill(0);
    sumRope.fill(0);
    addRows(sum, dS, runFrom(k, b, lo, kvHead), count, dn);
    addRows(sumRope, dS, runFrom(kRope, b, lo, 0), count, dr);
    writeRow(dQ.values, startOf(dQ, b, i, h), sum, softmaxScale, dn);
    writeRow(dQRope.values, startOf(dQRope, b, i, h), sumRope, softmaxScale, dr);
  });
}
