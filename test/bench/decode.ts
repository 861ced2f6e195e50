import * as tf from '@tensorflow/tfjs-core';
import { explain, mlaDecode } from '../../src/index.js';
import { laneOf, randomTensor, tfjsPeer } from './bench.js';
import type { Bench } from './bench.js';
import { composedDecode } from './composed.js';
import { measure } from './measure.js';
import { askAll } from './peers.js';
import type { Line } from './report.js';
import { nameOf } from './shapes.js';
import type { DecodeShape } from './shapes.js';

const softmaxScale = 1 / Math.sqrt(192);

/** One token over the compressed cache, beside the peers. */
export async function benchDecode(shape: DecodeShape, bench: Bench): Promise<Line[]> {
  const { b, h, s, r, rr } = shape;
  const qLatent = randomTensor<tf.Rank.R4>([b, 1, h, r]);
  const qRope = randomTensor<tf.Rank.R4>([b, 1, h, rr]);
  const cKv = randomTensor<tf.Rank.R3>([b, s, r]);
  const kRope = randomTensor<tf.Rank.R3>([b, s, rr]);
  const shapes = { qLatent: qLatent.shape, qRope: qRope.shape, cKv: cKv.shape, kRope: kRope.shape };

  const ours = await measure(() => mlaDecode(qLatent, qRope, cKv, kRope, { softmaxScale }), bench.clock);
  const [heads, ropes] = [tf.reshape(qLatent, [b, h, r]), tf.reshape(qRope, [b, h, rr])];
  const composed = (): tf.Tensor => composedDecode(heads, ropes, cKv, kRope, softmaxScale);
  const tfjs = bench.hasTfjs ? [{ peer: tfjsPeer, ...(await measure(composed, bench.clock)) }] : [];
  tf.dispose([qLatent, qRope, cKv, kRope, heads, ropes]);
  const results = await askAll(bench.programs, { op: 'decode', isSoftware: bench.isSoftware, ...shape });
  return [
    {
      kernel: 'decode',
      shape: nameOf(shape),
      lane: laneOf([explain('mlaDecode', shapes, { softmaxScale })]),
      ours,
      flop: 2 * b * h * s * (2 * r + rr),
      bytes: 4 * b * s * (r + rr),
      peers: [...tfjs, ...results('decode')],
    },
  ];
}
