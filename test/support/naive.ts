/**
 * The second oracle: a few tfjs ops over whole score matrices, differentiated by tfjs itself. It shares nothing with
 * src/ or kernels/, the masks included.
 */
import * as tf from '@tensorflow/tfjs-core';
// registers the gradients of tfjs's own ops
import '@tensorflow/tfjs-layers';
import type { AttentionCase, Case } from '../cases.js';
import { inputsOf } from './inputs.js';
import type { Data, DataByName } from './inputs.js';

type SeenMask = Pick<AttentionCase, 'sq' | 'skv' | 'causal' | 'window' | 'qLengths' | 'kvLengths'>;

/** Whether row i sees key j, word for word as the golden files' README has it. */
export function sees(c: SeenMask, b: number, i: number, j: number): boolean {
  const rows = c.qLengths?.[b] ?? c.sq;
  const keys = c.kvLengths?.[b] ?? c.skv;
  if (i >= rows || j >= keys) return false;
  const diagonal = c.causal === 'top-left' ? i : i + keys - rows;
  const [left, right] = c.window;
  if (c.causal && j > diagonal) return false;
  if (left >= 0 && j < diagonal - left) return false;
  return right < 0 || j <= diagonal + right;
}

interface State {
  out: tf.Tensor;
  /** finite, but without meaning where isSeeing is false */
  lse: tf.Tensor;
  isSeeing: tf.Tensor;
}

/** softmax(scale · q·kᵀ) · v and its lse, on q [b, hq, sq, d], k and v [b, hkv, skv, …]. */
function attend(c: Case, scale: number, q: tf.Tensor, k: tf.Tensor, v: tf.Tensor): State {
  const [b, hq, sq, d] = q.shape as number[];
  const hkv = k.shape[1] as number;
  // the rows of all query heads that read one key/value head, as if they were one head's
  const grouped = (x: tf.Tensor, columns: number): tf.Tensor =>
    tf.reshape(x, [b, hkv, (hq / hkv) * sq, columns]);
  const scores = tf.mul(tf.reshape(tf.matMul(grouped(q, d), k, false, true), [b, hq, sq, c.skv]), scale);
  const seen = seenBy(c);
  const isRowSeeing = tf.any(seen, -1, true);
  const masked = tf.where(tf.broadcastTo(seen, [b, hq, sq, c.skv]), scores, tf.fill(scores.shape, -1e30));
  const p = tf.mul(tf.softmax(masked), tf.cast(isRowSeeing, 'float32'));
  const out = tf.matMul(grouped(p, c.skv), v);
  return {
    out: tf.reshape(out, [b, hq, sq, v.shape[3] as number]),
    lse: tf.logSumExp(masked, -1),
    isSeeing: tf.broadcastTo(tf.squeeze(isRowSeeing, [3]), [b, hq, sq]),
  };
}

/** bool [b, 1, sq, skv] */
function seenBy(c: Case): tf.Tensor {
  const seen: number[] = [];
  for (let b = 0; b < c.b; b++) {
    for (let i = 0; i < c.sq; i++) for (let j = 0; j < c.skv; j++) seen.push(sees(c, b, i, j) ? 1 : 0);
  }
  return tf.tensor(seen, [c.b, 1, c.sq, c.skv], 'bool');
}

/** The transposition that brings the axes of `from` into the order of `to`. */
function reorder(x: tf.Tensor, from: string, to: string): tf.Tensor {
  return tf.transpose(
    x,
    [...to].map((axis) => from.indexOf(axis)),
  );
}

/** The forward of a case on tensors in the case's layout, in the order of `inputNames`. */
function forward(c: Case, inputs: tf.Tensor[]): State {
  const { layout } = c;
  const heads = (x: tf.Tensor): tf.Tensor => reorder(x, layout, 'bhsd');
  const state = ((): State => {
    if (c.op === 'mlaDecode') {
      const [qLatent, qRope, cKv, kRope] = inputs;
      const latents = tf.expandDims(cKv, 1);
      const k = c.rr > 0 ? tf.concat([latents, tf.expandDims(kRope, 1)], 3) : latents;
      const q = c.rr > 0 ? tf.concat([heads(qLatent), heads(qRope)], 3) : heads(qLatent);
      return attend(c, c.softmaxScale, q, k, latents);
    }
    const [q, kOwn, v, kRope] = inputs;
    let k = heads(kOwn);
    if (c.dr > 0) {
      const shared = tf.expandDims(reorder(kRope, layout.replace('h', ''), 'bsd'), 1);
      const copies = tf.concat(
        Array.from({ length: c.hkv }, () => shared),
        1,
      );
      k = c.dqk > c.dr ? tf.concat([k, copies], 3) : copies;
    }
    return attend(c, c.softmaxScale ?? 1 / Math.sqrt(c.dqk), heads(q), k, heads(v));
  })();
  return { ...state, out: reorder(state.out, 'bhsd', layout) };
}

/**
 * out, lse and the gradients of sum(out · dOut) + sum(lse · dLse), the latter over rows that see a key.
 * Not for cases of size zero: tfjs's own ops refuse them.
 */
export function naiveAnswers(c: Case): DataByName {
  const data = inputsOf(c);
  const isDecode = c.op === 'mlaDecode';
  const inputNames = isDecode ? ['qLatent', 'qRope', 'cKv', 'kRope'] : ['q', 'k', 'v', 'kRope'];
  const outputNames = isDecode ? ['dQLatent', 'dQRope', 'dCkv', 'dKRope'] : ['dQ', 'dK', 'dV', 'dKRope'];
  const answers: DataByName = {};
  tf.tidy(() => {
    const toTensor = ({ values, shape }: Data): tf.Tensor => tf.tensor(values, shape);
    const given = inputNames.filter((name) => data[name].values.length > 0);
    const all = (some: tf.Tensor[]): tf.Tensor[] =>
      inputNames.map((name) => (given.includes(name) ? some[given.indexOf(name)] : toTensor(data[name])));
    const loss = (...some: tf.Tensor[]): tf.Scalar => {
      const { out, lse, isSeeing } = forward(c, all(some));
      const ofOut = tf.sum(tf.mul(out, toTensor(data.dOut)));
      if (!c.hasDLse) return ofOut as tf.Scalar;
      const seen = tf.mul(lse, tf.cast(isSeeing, 'float32'));
      return tf.add(ofOut, tf.sum(tf.mul(seen, toTensor(data.dLse))));
    };
    const inputs = given.map((name) => toTensor(data[name]));
    const { out, lse: finite, isSeeing } = forward(c, all(inputs));
    const lse = tf.where(isSeeing, finite, tf.fill(finite.shape, -Infinity));
    const gradients = tf.grads(loss)(inputs);
    const read = (axes: string, x: tf.Tensor): Data => ({
      axes,
      shape: x.shape,
      values: x.dataSync() as Float32Array,
    });
    Object.assign(answers, { out: read(c.layout, out), lse: read('bhs', lse) });
    given.forEach((name, index) => {
      answers[outputNames[inputNames.indexOf(name)]] = read(data[name].axes, gradients[index]);
    });
  });
  return answers;
}
