import * as tf from '@tensorflow/tfjs-core';
import { MLAAttention } from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import { explain, mlaAttention } from '../../src/index.js';
import { kernelsOf, problemOf } from '../../src/ops/explain.js';
import { laneOf, randomTensor, tfjsPeer } from './bench.js';
import type { Bench } from './bench.js';
import { causalMask, composedAttention } from './composed.js';
import { measure } from './measure.js';
import { askAll } from './peers.js';
import type { PeerResult } from './peers.js';
import type { Line } from './report.js';
import { nameOf, scoresTooLarge } from './shapes.js';
import type { AttentionShape } from './shapes.js';

const options = { layout: 'bhsd', causal: true } as const;

/** Forward, and forward with backward, causal, beside the peers. */
export async function benchAttention(shape: AttentionShape, bench: Bench): Promise<Line[]> {
  const { b, h, s, dqk, dv } = shape;
  const make = (d: number): tf.Tensor4D => randomTensor<tf.Rank.R4>([b, h, s, d]);
  const [q, k, v, dOut] = [make(dqk), make(dqk), make(dv), make(dv)];
  const inputs = [q, k, v];

  const ours = (...x: tf.Tensor[]): tf.Tensor =>
    mlaAttention(x[0] as tf.Tensor4D, x[1] as tf.Tensor4D, x[2] as tf.Tensor4D, options);
  const lane = (kernels: KernelName[]): string =>
    laneOf(
      kernels.map((kernel) =>
        explain('mlaAttention', { q: q.shape, k: k.shape, v: v.shape }, options, kernel),
      ),
    );
  const oursForward = await measure(() => ours(...inputs), bench.clock);
  const oursGradients = tf.grads(ours);
  const oursBoth = await measure(() => oursGradients(inputs, dOut)[0], bench.clock);

  const tfjs = bench.hasTfjs ? await measureTfjs(shape, bench, inputs, dOut) : undefined;
  tf.dispose([...inputs, dOut]);
  const results = await askAll(bench.programs, { op: 'attention', isSoftware: bench.isSoftware, ...shape });

  const forwardFlop = b * h * s * s * (dqk + dv);
  const forwardBytes = 4 * b * h * s * (2 * dqk + 2 * dv);
  return [
    {
      kernel: 'forward',
      shape: nameOf(shape),
      lane: lane([MLAAttention]),
      ours: oursForward,
      flop: forwardFlop,
      bytes: forwardBytes,
      peers: [...(tfjs ? [tfjs.forward] : []), ...results('forward')],
    },
    {
      kernel: 'forward+backward',
      shape: nameOf(shape),
      lane: lane(
        kernelsOf(problemOf('bench', { op: 'mlaAttention', shapes: { q: q.shape, k: k.shape, v: v.shape } })),
      ),
      ours: oursBoth,
      flop: 3.6 * forwardFlop,
      bytes: 4 * forwardBytes,
      peers: [...(tfjs ? [tfjs.both] : []), ...results('forward+backward')],
    },
  ];
}

/** tfjs's composed ops on the same inputs, or why they cannot run. */
async function measureTfjs(
  shape: AttentionShape,
  { clock }: Bench,
  inputs: tf.Tensor[],
  dOut: tf.Tensor,
): Promise<{ forward: PeerResult; both: PeerResult }> {
  const skipped = scoresTooLarge(shape, 4);
  if (skipped !== undefined) {
    const result = { peer: tfjsPeer, skipped };
    return { forward: result, both: result };
  }
  const problem = { softmaxScale: 1 / Math.sqrt(shape.dqk), mask: causalMask(shape.s, shape.s) };
  const composed = (...x: tf.Tensor[]): tf.Tensor => composedAttention(x[0], x[1], x[2], problem);
  const gradients = tf.grads(composed);
  const forward = await measure(() => composed(...inputs), clock);
  const both = await measure(() => gradients(inputs, dOut)[0], clock);
  problem.mask.dispose();
  return { forward: { peer: tfjsPeer, ...forward }, both: { peer: tfjsPeer, ...both } };
}
