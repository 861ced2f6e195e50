import * as tf from '@tensorflow/tfjs-core';
import { mlaDecode } from '../../src/index.js';
import { composedDecode } from './composed.js';
import { measure } from './measure.js';
import type { Line } from './report.js';
import { nameOf } from './shapes.js';
import type { DecodeShape } from './shapes.js';

/** One token over the compressed cache, float32, against tfjs's composed ops in the same run. */
export async function benchDecode(shape: DecodeShape, peers: string[]): Promise<Line[]> {
  const { b, h, s, r, rr } = shape;
  const softmaxScale = 1 / Math.sqrt(192);
  const qLatent = tf.randomNormal<tf.Rank.R4>([b, 1, h, r]);
  const qRope = tf.randomNormal<tf.Rank.R4>([b, 1, h, rr]);
  const cKv = tf.randomNormal<tf.Rank.R3>([b, s, r]);
  const kRope = tf.randomNormal<tf.Rank.R3>([b, s, rr]);

  const ours = await measure(() => mlaDecode(qLatent, qRope, cKv, kRope, { softmaxScale }));
  let peerMs: number | undefined;
  if (peers.includes('tfjs')) {
    const heads = tf.reshape(qLatent, [b, h, r]);
    const ropes = tf.reshape(qRope, [b, h, rr]);
    peerMs = (await measure(() => composedDecode(heads, ropes, cKv, kRope, softmaxScale))).wallMs;
    tf.dispose([heads, ropes]);
  }
  tf.dispose([qLatent, qRope, cKv, kRope]);
  return [
    {
      kernel: 'decode',
      shape: nameOf(shape),
      ...ours,
      flop: 2 * b * h * s * (2 * r + rr),
      bytes: 4 * b * s * (r + rr),
      peer: 'tfjs composed',
      peerMs,
    },
  ];
}
