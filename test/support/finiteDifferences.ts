/** The third oracle: F1, F2 and F4 in float64 loops, and their derivatives as quotients of differences. Tiny cases only. */
import type { Case } from '../cases.js';
import { inputsOf, stepsOf } from './inputs.js';
import type { Data } from './inputs.js';
import { sees } from './naive.js';

/** Half of the step between two evaluations; the error of a quotient is some h². */
const h = 1e-5;

/** A tensor in float64, read by position. */
interface Grid {
  values: Float64Array;
  at(b: number, s: number, head?: number, d?: number): number;
}

type Grids = Record<string, Grid>;

function gridOf({ axes, shape, values: given }: Data): Grid {
  const values = Float64Array.from(given);
  const steps = stepsOf(shape);
  const [bStep, sStep, hStep, dStep] = [...'bshd'].map((axis) => steps[axes.indexOf(axis)] ?? 0);
  return { values, at: (b, s, head = 0, d = 0) => values[b * bStep + s * sStep + head * hStep + d * dStep] };
}

/** scale · (row · key), the shared columns of the key last. */
function scoreOf(c: Case, x: Grids, b: number, head: number, i: number, j: number): number {
  let sum = 0;
  if (c.op === 'mlaDecode') {
    for (let d = 0; d < c.r; d++) sum += x.qLatent.at(b, i, head, d) * x.cKv.at(b, j, 0, d);
    for (let d = 0; d < c.rr; d++) sum += x.qRope.at(b, i, head, d) * x.kRope.at(b, j, 0, d);
    return sum * c.softmaxScale;
  }
  const [dn, group] = [c.dqk - c.dr, Math.floor((head * c.hkv) / c.hq)];
  for (let d = 0; d < dn; d++) sum += x.q.at(b, i, head, d) * x.k.at(b, j, group, d);
  for (let d = 0; d < c.dr; d++) sum += x.q.at(b, i, head, dn + d) * x.kRope.at(b, j, 0, d);
  return sum * (c.softmaxScale ?? 1 / Math.sqrt(c.dqk));
}

/** sum(out · dOut) + sum(lse · dLse) over the rows that see a key. */
function lossOf(c: Case, x: Grids): number {
  const { v, dv, hkv } =
    c.op === 'mlaDecode' ? { v: x.cKv, dv: c.r, hkv: 1 } : { v: x.v, dv: c.dv, hkv: c.hkv };
  let loss = 0;
  for (let b = 0; b < c.b; b++) {
    for (let head = 0; head < c.hq; head++) {
      const group = Math.floor((head * hkv) / c.hq);
      for (let i = 0; i < c.sq; i++) {
        const seen = [...Array(c.skv).keys()].filter((j) => sees(c, b, i, j));
        if (seen.length === 0) continue;
        const weights = seen.map((j) => Math.exp(scoreOf(c, x, b, head, i, j)));
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        for (let d = 0; d < dv; d++) {
          const out = seen.reduce((sum, j, n) => sum + (weights[n] / total) * v.at(b, j, group, d), 0);
          loss += out * x.dOut.at(b, i, head, d);
        }
        if (c.hasDLse) loss += Math.log(total) * x.dLse.at(b, i, head);
      }
    }
  }
  return loss;
}

/** The gradient of the case's loss with respect to one input. */
export function differenceQuotients(c: Case, input: string): Data {
  const data = inputsOf(c);
  const x = Object.fromEntries(Object.entries(data).map(([name, tensor]) => [name, gridOf(tensor)]));
  const { values } = x[input];
  const quotients = values.map((value, index) => {
    const lossAt = (moved: number): number => {
      values[index] = moved;
      return lossOf(c, x);
    };
    const quotient = (lossAt(value + h) - lossAt(value - h)) / (2 * h);
    values[index] = value;
    return quotient;
  });
  return { ...data[input], values: Float32Array.from(quotients) };
}
