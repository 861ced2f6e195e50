import * as tf from '@tensorflow/tfjs-core';
import { mlaAttention } from '../../src/index.js';
import { causalMask, composedAttention } from './composed.js';
import { measure } from './measure.js';
import type { Line } from './report.js';
import { nameOf } from './shapes.js';
import type { AttentionShape } from './shapes.js';

/** Scores of one peer call must fit into a binding, and several of them are alive at once. */
const mostComposedScores = 512 * 1024 * 1024;

/** Forward, and forward with backward, causal, float32, against tfjs's composed ops in the same run. */
export async function benchAttention(shape: AttentionShape, peers: string[]): Promise<Line[]> {
  const { b, h, s, dqk, dv } = shape;
  const make = (d: number): tf.Tensor4D => tf.randomNormal([b, h, s, d]);
  const q = make(dqk);
  const k = make(dqk);
  const v = make(dv);
  const dOut = make(dv);
  const inputs = [q, k, v];

  const ours = (...x: tf.Tensor[]): tf.Tensor =>
    mlaAttention(x[0] as tf.Tensor4D, x[1] as tf.Tensor4D, x[2] as tf.Tensor4D, {
      layout: 'bhsd',
      causal: true,
    });
  const oursMs = await measureBoth(ours, inputs, dOut);

  let peerMs: Awaited<ReturnType<typeof measureBoth>> | undefined;
  if (peers.includes('tfjs') && 4 * b * h * s * s <= mostComposedScores * 4) {
    const problem = { softmaxScale: 1 / Math.sqrt(dqk), mask: causalMask(s, s) };
    const composed = (...x: tf.Tensor[]): tf.Tensor => composedAttention(x[0], x[1], x[2], problem);
    peerMs = await measureBoth(composed, inputs, dOut);
    problem.mask.dispose();
  }
  tf.dispose([...inputs, dOut]);

  const forwardFlop = b * h * s * s * (dqk + dv);
  const forwardBytes = 4 * b * h * s * (2 * dqk + 2 * dv);
  const name = nameOf(shape);
  return [
    {
      kernel: 'forward',
      shape: name,
      ...oursMs.forward,
      flop: forwardFlop,
      bytes: forwardBytes,
      peer: 'tfjs composed',
      peerMs: peerMs?.forward.wallMs,
    },
    {
      kernel: 'forward+backward',
      shape: name,
      ...oursMs.both,
      flop: 3.6 * forwardFlop,
      bytes: 4 * forwardBytes,
      peer: 'tfjs composed',
      peerMs: peerMs?.both.wallMs,
    },
  ];
}

async function measureBoth(
  attention: (...inputs: tf.Tensor[]) => tf.Tensor,
  inputs: tf.Tensor[],
  dOut: tf.Tensor,
): Promise<{ forward: Awaited<ReturnType<typeof measure>>; both: Awaited<ReturnType<typeof measure>> }> {
  const forward = await measure(() => attention(...inputs));
  const gradients = tf.grads(attention);
  const both = await measure(() => gradients(inputs, dOut)[0]);
  return { forward, both };
}
