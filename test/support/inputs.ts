/** Tensors as plain data, random but seeded, and the problem that a case describes. */
import { sizeOf } from '../../src/core/layout.js';
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

interface Sizes {
  axes: string;
  sizes: Record<string, number>;
}

/** Axes and sizes of the float32 inputs of a case, by the kernel's names; those that are absent are left out. */
function layOut(c: Case): Record<string, Sizes> {
  const { layout, b, hq, sq, skv } = c;
  const rows = (d: number): Sizes => ({ axes: layout, sizes: { b, s: sq, h: hq, d } });
  const shared = (axes: string, d: number): Sizes => ({ axes, sizes: { b, s: skv, d } });
  const dLse: Record<string, Sizes> = c.hasDLse ? { dLse: { axes: 'bhs', sizes: { b, h: hq, s: sq } } } : {};
  if (c.op === 'mlaDecode') {
    const { r, rr } = c;
    const caches = { cKv: shared('bsd', r), kRope: shared('bsd', rr) };
    return { qLatent: rows(r), qRope: rows(rr), ...caches, dOut: rows(r), ...dLse };
  }
  const { hkv, dqk, dr, dv } = c;
  const keys = (d: number): Sizes => ({ axes: layout, sizes: { b, s: skv, h: hkv, d } });
  const kRope: Record<string, Sizes> = dr > 0 ? { kRope: shared(layout.replace('h', ''), dr) } : {};
  return { q: rows(dqk), k: keys(dqk - dr), v: keys(dv), ...kRope, dOut: rows(dv), ...dLse };
}

/** The forward's inputs by the kernel's names, and dOut and dLse; what is absent has size zero. */
export function inputsOf(c: Case): DataByName {
  const absent: Data = { axes: 'd', shape: [0], values: new Float32Array(0) };
  const lengths = (values: number[] = []): Data => ({
    axes: 'b',
    shape: [values.length],
    values: Int32Array.from(values),
  });
  const random = Object.entries(layOut(c)).map(([name, { axes, sizes }]) => [
    name,
    floats(axes, sizes, normals(`${c.op} ${c.name} ${name}`)),
  ]);
  return {
    kRope: absent,
    dLse: absent,
    qLengths: lengths(c.op === 'mlaAttention' ? c.qLengths : []),
    kvLengths: lengths(c.kvLengths),
    ...(Object.fromEntries(random) as DataByName),
  };
}

/** The record that the ops would make of the case. */
export function problemOf(c: Case): MlaProblem {
  const inputs = layOut(c);
  const described = (name: string): Described => {
    const { axes, sizes } = inputs[name];
    return { shape: [...axes].map((axis) => sizes[axis]), dtype: 'float32' };
  };
  const { layout, causal, window, kvLengths, softmaxScale, hasDLse } = c;
  const options = { layout, causal, window, kvLengths, returnLse: hasDLse };
  if (c.op === 'mlaDecode') {
    const [qLatent, qRope, cKv, kRope] = ['qLatent', 'qRope', 'cKv', 'kRope'].map(described);
    const given = { ...options, softmaxScale: c.softmaxScale };
    return decodeProblem('test', { qLatent, qRope, cKv, kRope }, given);
  }
  const [q, k, v] = ['q', 'k', 'v'].map(described);
  const kRope = c.dr > 0 ? described('kRope') : undefined;
  return attentionProblem('test', { q, k, v, kRope }, { ...options, softmaxScale, qLengths: c.qLengths });
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
