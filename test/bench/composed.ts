/** The peer: what a user of tfjs without this package writes. Heads first, so that it needs no transposition. */
import * as tf from '@tensorflow/tfjs-core';
import type { FullForm } from '../../src/layers/multiHeadLatentAttention.js';

export interface ComposedProblem {
  softmaxScale: number;
  /** [sq, skv], 0 or a large negative number */
  mask: tf.Tensor;
}

export function composedAttention(
  q: tf.Tensor,
  k: tf.Tensor,
  v: tf.Tensor,
  { softmaxScale, mask }: ComposedProblem,
): tf.Tensor {
  const scores = tf.add(tf.mul(tf.matMul(q, k, false, true), softmaxScale), mask);
  return tf.matMul(tf.softmax(scores), v);
}

/** The same as the full form of our layer, whose tensors are [b, s, h, d], kRope [b, s, dr]. */
export function composedFullForm(mask: tf.Tensor): FullForm {
  const headsFirst = (x: tf.Tensor): tf.Tensor4D => tf.transpose(x as tf.Tensor4D, [0, 2, 1, 3]);
  return (q, k, v, { kRope, softmaxScale = 1 / Math.sqrt(q.shape[3]) } = {}) => {
    const heads = k.shape[2];
    const keys = kRope
      ? tf.concat([headsFirst(k), tf.tile(tf.expandDims(kRope as tf.Tensor3D, 1), [1, heads, 1, 1])], 3)
      : headsFirst(k);
    return headsFirst(composedAttention(headsFirst(q), keys, headsFirst(v), { softmaxScale, mask }));
  };
}

export function causalMask(sq: number, skv: number): tf.Tensor {
  return tf.tidy(() => {
    const i = tf.reshape(tf.range(0, sq), [sq, 1]);
    const j = tf.reshape(tf.range(0, skv), [1, skv]);
    return tf.mul(tf.cast(tf.greater(j, tf.add(i, skv - sq)), 'float32'), -1e9);
  });
}

/** Absorbed decode: qLatent [b, h, r], qRope [b, h, rr], cKv [b, s, r], kRope [b, s, rr]. */
export function composedDecode(
  qLatent: tf.Tensor,
  qRope: tf.Tensor,
  cKv: tf.Tensor,
  kRope: tf.Tensor,
  softmaxScale: number,
): tf.Tensor {
  const nope = tf.matMul(qLatent, cKv, false, true);
  const rope = tf.matMul(qRope, kRope, false, true);
  return tf.matMul(tf.softmax(tf.mul(tf.add(nope, rope), softmaxScale)), cKv);
}
