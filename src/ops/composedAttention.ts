import {
  add,
  cast,
  concat,
  div,
  exp,
  expandDims,
  greater,
  greaterEqual,
  less,
  lessEqual,
  logicalAnd,
  matMul,
  max,
  mul,
  ones,
  randomUniform,
  range,
  reshape,
  scalar,
  slice,
  sub,
  sum,
  tile,
  transpose,
  where,
  zerosLike,
} from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import { isNumbers } from '../core/checks.js';
import { fromHeadsFirst, toBatchFirst, toHeadsFirst } from '../core/layout.js';
import type { MlaProblem } from '../core/problem.js';
import { lengthsTensor, withGradient } from '../core/tensors.js';

export interface ComposedInputs {
  q: Tensor4D;
  k: Tensor4D;
  v: Tensor4D;
  kRope?: Tensor3D;
  qLengths?: readonly number[] | Tensor1D;
  kvLengths?: readonly number[] | Tensor1D;
  mask?: Tensor;
  bias?: Tensor;
  dropout: number;
  seed?: number;
}

/** F1-F4 and B2-B7 of gradients/README.md as tfjs ops over whole [b, hq, sq, skv] tensors. */
export function composedAttention(problem: MlaProblem, inputs: ComposedInputs): Tensor4D {
  const { b, hq, hkv, sq, skv, dn, dr, dv, softmaxScale, layout } = problem;
  const { q, k, v, kRope, bias, dropout, seed } = inputs;
  const keep = keepMask(problem, inputs);
  const scoresShape: [number, number, number, number] = [b, hq, sq, skv];
  const grouped = [b, hkv, (hq / hkv) * sq, skv];

  // dropped probabilities are 0, the others grow so that their expectation stays
  const survivors =
    dropout > 0
      ? mul(
          cast(greaterEqual(randomUniform(scoresShape, 0, 1, 'float32', seed), dropout), 'float32'),
          1 / (1 - dropout),
        )
      : scalar(1);

  // rows of the query heads that share a key/value head stand together: no head is repeated in memory
  const rowsOf = (x: Tensor, d: number): Tensor =>
    reshape(transpose(x, toHeadsFirst(layout)), [b, hkv, (hq / hkv) * sq, d]);
  const rowsBack = (x: Tensor, d: number): Tensor =>
    transpose(reshape(x, [b, hq, sq, d]), fromHeadsFirst(layout));
  const keysOf = (x: Tensor): Tensor => transpose(x, toHeadsFirst(layout));
  const keysBack = (x: Tensor): Tensor => transpose(x, fromHeadsFirst(layout));

  return withGradient(
    [q, k, v, ...(kRope ? [kRope] : []), ...(bias ? [bias] : [])],
    (qIn, kIn, vIn) => {
      const qRows = rowsOf(qIn, dn + dr);
      let keys = keysOf(kIn);
      if (kRope) {
        const shared = expandDims(transpose(kRope, toBatchFirst(layout)), 1);
        keys = concat([keys, tile(shared, [1, hkv, 1, 1])], 3);
      }
      const values = keysOf(vIn);
      let scores: Tensor = reshape(mul(matMul(qRows, keys, false, true), softmaxScale), scoresShape);
      if (bias) scores = add(scores, bias);
      const p = maskedSoftmax(scores, keep);
      const out = matMul(reshape(mul(p, survivors), grouped), values);
      return { value: rowsBack(out, dv), saved: [qRows, keys, values, p, survivors] };
    },
    (dOut, [qRows, keys, values, p, kept]) => {
      const dOutRows = rowsOf(dOut, dv);
      const dropped = reshape(mul(p, kept), grouped);
      const dP = mul(reshape(matMul(dOutRows, values, false, true), scoresShape), kept);
      const dS = mul(p, sub(dP, sum(mul(dP, p), -1, true)));
      const dScores = reshape(mul(dS, softmaxScale), grouped);
      const dQ = rowsBack(matMul(dScores, keys), dn + dr);
      const dKeys = matMul(dScores, qRows, true, false);
      const dK = keysBack(slice(dKeys, [0, 0, 0, 0], [b, hkv, skv, dn]));
      const dV = keysBack(matMul(dropped, dOutRows, true, false));
      const gradients = [dQ, dK, dV];
      if (kRope) {
        const dShared = sum(slice(dKeys, [0, 0, 0, dn], [b, hkv, skv, dr]), 1);
        gradients.push(transpose(dShared, toBatchFirst(layout)));
      }
      if (bias) gradients.push(sumTo(dS, bias.shape));
      return gradients;
    },
  ) as Tensor4D;
}

/** exp(scores) over what is kept, divided by its sum; a row that keeps nothing is 0. */
function maskedSoftmax(scores: Tensor, keep: Tensor): Tensor {
  const least = -3e38;
  const masked = where(
    logicalAnd(keep, greaterEqual(scores, least)),
    scores,
    mul(add(zerosLike(scores), 1), least),
  );
  const shifted = sub(masked, max(masked, -1, true));
  const weights = mul(exp(shifted), cast(keep, 'float32'));
  const total = sum(weights, -1, true);
  return div(weights, where(greater(total, 0), total, add(zerosLike(total), 1)));
}

/** Which keys each row keeps, bool [b, hq, sq, skv] or broadcastable to it. */
function keepMask(problem: MlaProblem, { qLengths, kvLengths, mask }: ComposedInputs): Tensor {
  const { b, hq, sq, skv, causal, window } = problem;
  const [left, right] = window;
  const perBatch = (lengths: readonly number[] | Tensor1D | undefined, size: number): Tensor => {
    if (lengths === undefined) return scalar(size);
    const clamped = isNumbers(lengths) ? lengthsTensor(lengths) : lengths;
    return reshape(clampTo(cast(clamped, 'float32'), size), [b, 1, 1, 1]);
  };
  const qLength = perBatch(qLengths, sq);
  const kvLength = perBatch(kvLengths, skv);
  const i = reshape(range(0, sq, 1, 'float32'), [1, 1, sq, 1]);
  const j = reshape(range(0, skv, 1, 'float32'), [1, 1, 1, skv]);
  const diagonal = causal === 'top-left' ? i : add(i, sub(kvLength, qLength));

  let keep: Tensor = logicalAnd(less(i, qLength), less(j, kvLength));
  if (causal !== 'none') keep = logicalAnd(keep, lessEqual(j, diagonal));
  if (left >= 0) keep = logicalAnd(keep, greaterEqual(j, sub(diagonal, left)));
  if (right >= 0) keep = logicalAnd(keep, lessEqual(j, add(diagonal, right)));
  if (mask) keep = logicalAnd(keep, mask);
  // where() wants equal shapes
  return logicalAnd(keep, ones([b, hq, sq, skv], 'bool'));
}

function clampTo(lengths: Tensor, size: number): Tensor {
  const atLeast = mul(lengths, cast(greater(lengths, 0), 'float32'));
  return where(greater(atLeast, size), mul(add(zerosLike(atLeast), 1), size), atLeast);
}

/** The sum over every axis along which `shape` was broadcast. */
function sumTo(x: Tensor, shape: number[]): Tensor {
  const padded = [...new Array<number>(x.rank - shape.length).fill(1), ...shape];
  const axes = padded.flatMap((dim, axis) => (dim === 1 && x.shape[axis] !== 1 ? [axis] : []));
  return reshape(axes.length > 0 ? sum(x, axes, true) : x, shape);
}
