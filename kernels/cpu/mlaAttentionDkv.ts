/**
 * B2, B3, B5-B7 of gradients/README.md: the gradients of keys and values, a key at a time over all rows that see it,
 * in the order of heads and rows.
 */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../src/core/layout.js';
import type { AttentionInputs, BackwardInputs } from '../../src/core/kernelInputs.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { seeingRows } from '../../src/core/visibility.js';
import { addDots, addRows, floatsOf, operandsOf, resultRows, runFrom, startOf, writeRow } from './rows.js';
import type { OperandInfos } from './rows.js';

/** MLAAttentionDkv: q, k, v, kRope, qLengths, kvLengths, dOut, lse, delta → dK, dV, dKRope. */
export function mlaAttentionDkv(
  problem: MlaProblem,
  inputs: AttentionInputs & BackwardInputs,
  backend: MathBackendCPU,
): TensorInfo[] {
  const { q, k, v, kRope, qLengths, kvLengths } = inputs;
  const infos = { q, qRope: q, k, kRope, v, qLengths, kvLengths };
  const dK = new Float32Array(sizeOf(k.shape));
  const dV = new Float32Array(sizeOf(v.shape));
  const dKRope = attendDkv(problem, infos, inputs, backend, ({ b, j, kvHead, sumK, sumV }) => {
    const { dn, dv, strides } = problem;
    writeRow(dK, startOf(resultRows(dK, strides.k), b, j, kvHead), sumK, 1, dn);
    writeRow(dV, startOf(resultRows(dV, strides.v), b, j, kvHead), sumV, 1, dv);
  });
  return [
    backend.makeTensorInfo(k.shape, 'float32', dK),
    backend.makeTensorInfo(v.shape, 'float32', dV),
    backend.makeTensorInfo(kRope.shape, 'float32', dKRope),
  ];
}

/** The finished gradients of one key and its value. */
interface KeyGradient {
  b: number;
  j: number;
  kvHead: number;
  sumK: Float64Array;
  sumV: Float64Array;
}

/** Hands every key's gradients to `write`, and returns those of the shared rope part. */
export function attendDkv(
  problem: MlaProblem,
  infos: OperandInfos,
  { dOut, lse, delta }: BackwardInputs,
  backend: MathBackendCPU,
  write: (gradient: KeyGradient) => void,
): Float32Array {
  const { b: batch, hq, hkv, sq, dn, dr, dv, softmaxScale, strides } = problem;
  const operands = operandsOf(problem, infos, backend);
  const { q, qRope, k, kRope, v, qLengths, kvLengths } = operands;
  const dOutRows = resultRows(floatsOf(backend, dOut), strides.out);
  const lseValues = floatsOf(backend, lse);
  const deltaValues = floatsOf(backend, delta);
  const p = new Float64Array(sq);
  const dS = new Float64Array(sq);
  const sumK = new Float64Array(dn);
  const sumV = new Float64Array(dv);
  const sumRope = new Float64Array(dr);
  const dKRope = resultRows(new Float32Array(sizeOf(infos.kRope.shape)), strides.kRope);
  const headsPerGroup = hq / hkv;

  for (let b = 0; b < batch; b++) {
    for (let j = 0; j < kvLengths[b]; j++) {
      const [lo, hi] = seeingRows(problem, j, qLengths[b], kvLengths[b]);
      const count = hi - lo;
      sumRope.fill(0);
      for (let kvHead = 0; kvHead < hkv; kvHead++) {
        sumK.fill(0);
        sumV.fill(0);
        for (let h = kvHead * headsPerGroup; h < (kvHead + 1) * headsPerGroup; h++) {
          const qRun = runFrom(q, b, lo, h);
          const qRopeRun = runFrom(qRope, b, lo, h);
          const dOutRun = runFrom(dOutRows, b, lo, h);
          // F1, B2: the products of the forward, read by columns
          p.fill(0, 0, count);
          dS.fill(0, 0, count);
          addDots(p, k.values, startOf(k, b, j, kvHead), qRun, count, dn);
          addDots(p, kRope.values, startOf(kRope, b, j, 0), qRopeRun, count, dr);
          addDots(dS, v.values, startOf(v, b, j, kvHead), dOutRun, count, dv);
          // F3, B3
          const stat = (b * hq + h) * sq + lo;
          for (let i = 0; i < count; i++) {
            p[i] = Math.exp(softmaxScale * p[i] - lseValues[stat + i]);
            dS[i] = softmaxScale * p[i] * (dS[i] - deltaValues[stat + i]);
          }
          addRows(sumV, p, dOutRun, count, dv); // B5
          addRows(sumK, dS, qRun, count, dn); // B6
          addRows(sumRope, dS, qRopeRun, count, dr); // B7
        }
        write({ b, j, kvHead, sumK, sumV });
      }
      writeRow(dKRope.values, startOf(dKRope, b, j, 0), sumRope, 1, dr);
    }
  }
  return dKRope.values;
}
