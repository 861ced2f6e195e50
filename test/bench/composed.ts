/** The peer: what a user of tfjs without this package writes. Heads first, so that it needs no transposition. */
import * as tf from '@tensorflow/tfjs-core';

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
