/** Tensors as plain data, random but seeded, and the problem that a case describes. */
import { attentionProblem, decodeProblem } from '../../src/core/problem.js';
import type { Described, MlaProblem } from '../../src/core/problem.js';
import type { Case } from '../cases.js';

/** A tensor whose axes have names, one letter each: b batch, s sequence, h heads, d columns. */
export interface Data {
  axes: string;
  shape: number[];
  values: Float32Array | Int32Array;
}

export type DataByName = Record<string, Data>;

/** A float32 tensor with these sizes, in the order of `axes`. */
export function floats(axes: string, sizes: Record<string, number>, next: () => number): Data {
  const shape = [...axes].map((axis) => sizes[axis]);
  return { axes, shape, values: Float32Array.from({ length: sizeOf(shape) }, next) };
}

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((size, dim) => size * dim, 1);
}

/** An optional input that is not there. */
const absent: Data = { axes: 'd', shape: [0], values: new Float32Array(0) };

function lengths(values: number[] | undefined): Data {
  const given = values ?? [];
  return { axes: 'b', shape: [given.length], values: Int32Array.from(given) };
}

/** Normal numbers around 0.25 (so that a lost sign or a swapped operand shows), the same for the same seed. */
export function normals(seed: string): () => number {
  const uniform = uniforms(seed);
  return () => 0.25 + Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** Numbers from 0 to 1 (excluded): mulberry32, started from a hash (FNV-1a) of the seed. */
export function uniforms(seed: string): () => number {
  let state = 0x811c9dc5;
  for (const letter of seed) state = Math.imul(state ^ letter.charCodeAt(0), 0x01000193);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The forward's inputs by the kernel's names, and dOut and dLse. */
export function inputsOf(c: Case): DataByName {
  const { layout, b, hq, sq, skv } = c;
  const random = (name: string, axes: string, sizes: { s: number; h?: number; d?: number }): Data =>
    floats(axes, { b, ...sizes }, normals(`${c.op} ${c.name} ${name}`));
  const dLse = c.hasDLse ? random('dLse', 'bhs', { s: sq, h: hq }) : absent;
  if (c.op === 'mlaDecode') {
    const { r, rr } = c;
    return {
      qLatent: random('qLatent', layout, { s: sq, h: hq, d: r }),
      qRope: random('qRope', layout, { s: sq, h: hq, d: rr }),
      cKv: random('cKv', 'bsd', { s: skv, d: r }),
      kRope: random('kRope', 'bsd', { s: skv, d: rr }),
      kvLengths: lengths(c.kvLengths),
      dOut: random('dOut', layout, { s: sq, h: hq, d: r }),
      dLse,
    };
  }
  const { hkv, dqk, dr, dv } = c;
  return {
    q: random('q', layout, { s: sq, h: hq, d: dqk }),
    k: random('k', layout, { s: skv, h: hkv, d: dqk - dr }),
    v: random('v', layout, { s: skv, h: hkv, d: dv }),
    kRope: dr > 0 ? random('kRope', layout.replace('h', ''), { s: skv, d: dr }) : absent,
    qLengths: lengths(c.qLengths),
    kvLengths: lengths(c.kvLengths),
    dOut: random('dOut', layout, { s: sq, h: hq, d: dv }),
    dLse,
  };
}

/** The record that the ops would make of the case. */
export function problemOf(c: Case): MlaProblem {
  const inputs = inputsOf(c);
  const described = (name: string): Described => ({ shape: inputs[name].shape, dtype: 'float32' });
  const { layout, causal, window, kvLengths, softmaxScale } = c;
  const options = { layout, causal, window, kvLengths, returnLse: c.hasDLse };
  if (c.op === 'mlaDecode') {
    const [qLatent, qRope, cKv, kRope] = ['qLatent', 'qRope', 'cKv', 'kRope'].map(described);
    return decodeProblem(
      'test',
      { qLatent, qRope, cKv, kRope },
      { ...options, softmaxScale: c.softmaxScale },
    );
  }
  return attentionProblem(
    'test',
    { q: described('q'), k: described('k'), v: described('v') },
    {
      ...options,
      softmaxScale,
      qLengths: c.qLengths,
      kRope: c.dr > 0 ? described('kRope') : undefined,
    },
  );
}

/** A copy with NaN in every row (b, s) from the batch entry's length on: what lies there must not matter. */
export function poisonPastLengths(data: Data, rowLengths: readonly number[] | undefined): Data {
  if (!rowLengths || !data.axes.includes('s')) return data;
  const values = data.values.slice();
  const steps = stepsOf(data.shape);
  const [bAxis, sAxis] = ['b', 's'].map((axis) => data.axes.indexOf(axis));
  for (let index = 0; index < values.length; index++) {
    const b = Math.floor(index / steps[bAxis]) % data.shape[bAxis];
    const s = Math.floor(index / steps[sAxis]) % data.shape[sAxis];
    if (s >= rowLengths[b]) values[index] = NaN;
  }
  return { ...data, values };
}

/** From one index along an axis to the next, in elements. */
export function stepsOf(shape: readonly number[]): number[] {
  return shape.map((_, axis) => sizeOf(shape.slice(axis + 1)));
}
