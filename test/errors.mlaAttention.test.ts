import * as tf from '@tensorflow/tfjs-core';
import { mlaAttention } from '../src/index.js';
import type { Layout } from '../src/index.js';
import { disposed, ones, ones3, testRefusals, untyped } from './support/refusals.js';

const qShape = [2, 5, 4, 8];
const kShape = [2, 7, 2, 8];
const vShape = [2, 7, 2, 6];

/** A call that is right but for what is given. */
function attend(
  shapes: { q?: number[]; k?: number[]; v?: number[] },
  options: Parameters<typeof mlaAttention>[3] = {},
): tf.Tensor {
  const { q = qShape, k = kShape, v = vShape } = shapes;
  return mlaAttention(ones(q), ones(k), ones(v), { ...options, returnLse: false });
}

testRefusals('errors of mlaAttention', {
  'mlaAttention: layout must be one of bshd, bhsd, sbhd, got hbsd': () =>
    attend({}, { layout: 'hbsd' as Layout }),
  "mlaAttention: q must be [b, sq, hq, dqk] for layout 'bshd', got rank 3 [2, 5, 8]": () =>
    attend({ q: [2, 5, 8] }),
  "mlaAttention: k must be [skv, b, hkv, dqk] for layout 'sbhd', got rank 3 [2, 7, 8]": () =>
    attend({ k: [2, 7, 8] }, { layout: 'sbhd' }),
  "mlaAttention: v must be [b, hkv, skv, dv] for layout 'bhsd', got rank 5 [2, 7, 2, 6, 1]": () =>
    attend({ v: [2, 7, 2, 6, 1] }, { layout: 'bhsd' }),
  "mlaAttention: kRope must be [b, skv, dr] for layout 'bshd', got rank 4 [1, 1, 1, 1]": () =>
    attend({}, { kRope: [[[[1]]]] }),
  'mlaAttention: q is disposed': () => mlaAttention(disposed(ones(qShape)), ones(kShape), ones(vShape)),
  'mlaAttention: q must be float32, got int32': () =>
    mlaAttention(ones(qShape, 'int32'), ones(kShape), ones(vShape)),
  'mlaAttention: v must be float32, got bool': () =>
    mlaAttention(ones(qShape), ones(kShape), ones(vShape, 'bool')),
  'mlaAttention: kRope must be float32, got int32': () => attend({}, { kRope: ones3([2, 7, 4], 'int32') }),
  'mlaAttention: kRope must have from 1 to dqk=8 columns, got [2, 7, 9]': () =>
    attend({}, { kRope: ones3([2, 7, 9]) }),
  'mlaAttention: kRope must have from 1 to dqk=8 columns, got [2, 7, 0]': () =>
    attend({}, { kRope: tf.zeros([2, 7, 0]) }),
  "mlaAttention: k must be [b=2, skv, hkv, dqk=8] for layout 'bshd', got [1, 7, 2, 8]": () =>
    attend({ k: [1, 7, 2, 8] }),
  "mlaAttention: k must be [b=2, hkv, skv, dqk=8] for layout 'bhsd', got [2, 2, 7, 6]": () =>
    attend({ k: [2, 2, 7, 6], v: [2, 2, 7, 6] }, { layout: 'bhsd' }),
  "mlaAttention: k must be [b=2, skv, hkv, dqk-dr=5] for layout 'bshd', got [2, 7, 2, 8]": () =>
    attend({}, { kRope: ones3([2, 7, 3]) }),
  "mlaAttention: v must be [b=2, skv=7, hkv=2, dv] for layout 'bshd', got [2, 6, 2, 6]": () =>
    attend({ v: [2, 6, 2, 6] }),
  "mlaAttention: v must be [b=2, skv=7, hkv=2, dv] for layout 'bshd', got [2, 7, 4, 6]": () =>
    attend({ v: [2, 7, 4, 6] }),
  "mlaAttention: kRope must be [b=2, skv=7, dr] for layout 'bshd', got [2, 6, 3]": () =>
    attend({ k: [2, 7, 2, 5] }, { kRope: ones3([2, 6, 3]) }),
  "mlaAttention: kRope must be [skv=7, b=2, dr] for layout 'sbhd', got [2, 7, 3]": () =>
    attend(
      { q: [5, 2, 4, 8], k: [7, 2, 2, 5], v: [7, 2, 2, 6] },
      { layout: 'sbhd', kRope: ones3([2, 7, 3]) },
    ),
  'mlaAttention: hq must be a multiple of hkv=2, got hq=3': () => attend({ q: [2, 5, 3, 8] }),
  'mlaAttention: hq must be a multiple of hkv=0, got hq=4': () =>
    attend({ k: [2, 7, 0, 8], v: [2, 7, 0, 6] }),
  'mlaAttention: dqk must be from 1 to 256, got 257': () =>
    attend({ q: [1, 1, 1, 257], k: [1, 1, 1, 257], v: [1, 1, 1, 4] }),
  'mlaAttention: dqk must be from 1 to 256, got 0': () =>
    attend({ q: [1, 1, 1, 0], k: [1, 1, 1, 0], v: [1, 1, 1, 4] }),
  'mlaAttention: dv must be from 1 to 256, got 300': () => attend({ v: [2, 7, 2, 300] }),
  'mlaAttention: softmaxScale must be a finite number, got NaN': () => attend({}, { softmaxScale: NaN }),
  "mlaAttention: causal must be a boolean, 'bottom-right' or 'top-left', got bottom-left": () =>
    attend({}, untyped({ causal: 'bottom-left' })),
  'mlaAttention: window must be [left, right], integers from -1 (unbounded), got [3]': () =>
    attend({}, untyped({ window: [3] })),
  'mlaAttention: window must be [left, right], integers from -1 (unbounded), got [-2,0]': () =>
    attend({}, { window: [-2, 0] }),
  'mlaAttention: window must be [left, right], integers from -1 (unbounded), got [0,1.5]': () =>
    attend({}, { window: [0, 1.5] }),
  'mlaAttention: precision must be one of float32, float16, bfloat16, tf32, auto, got float8': () =>
    attend({}, untyped({ precision: 'float8' })),
  'mlaAttention: kvLengths must be b=2 integers from 0 to skv=7, got [7, 8]': () =>
    attend({}, { kvLengths: [7, 8] }),
  'mlaAttention: kvLengths must be b=2 integers from 0 to skv=7, got [-1, 7]': () =>
    attend({}, { kvLengths: [-1, 7] }),
  'mlaAttention: kvLengths must be b=2 integers from 0 to skv=7, got [2.5, 7]': () =>
    attend({}, { kvLengths: [2.5, 7] }),
  'mlaAttention: qLengths must be b=2 integers from 0 to sq=5, got [5, 6]': () =>
    attend({}, { qLengths: [5, 6] }),
  'mlaAttention: qLengths must be b=2 integers from 0 to sq=5, got [5]': () => attend({}, { qLengths: [5] }),
  'mlaAttention: kvLengths must be int32 [b=2] or a number[], got float32 [2]': () =>
    attend({}, { kvLengths: tf.tensor1d([1, 2]) }),
  'mlaAttention: qLengths must be int32 [b=2] or a number[], got int32 [3]': () =>
    attend({}, { qLengths: tf.tensor1d([1, 2, 3], 'int32') }),
  'mlaAttention: kvLengths is disposed': () =>
    attend({}, { kvLengths: disposed(tf.tensor1d([1, 2], 'int32')) }),
});
