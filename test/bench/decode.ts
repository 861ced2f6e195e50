import * as tf from '@tensorflow/tfjs-core';
import { LatentCache, explain, mlaDecode } from '../../src/index.js';
import { laneOf, randomTensor, tfjsPeer } from './bench.js';
import type { Bench } from './bench.js';
import { composedDecode } from './composed.js';
import type { Figure } from './figure.js';
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
  const packed = await measurePacked(shape, bench, [qLatent, qRope, cKv, kRope]);
  const [heads, ropes] = [tf.reshape(qLatent, [b, h, r]), tf.reshape(qRope, [b, h, rr])];
  const composed = (): tf.Tensor => composedDecode(heads, ropes, cKv, kRope, softmaxScale);
  const tfjs = bench.hasTfjs ? [{ peer: tfjsPeer, ...(await measure(composed, bench.clock)) }] : [];
  tf.dispose([qLatent, qRope, cKv, kRope, heads, ropes]);
  const results = await askAll(bench.programs, { op: 'decode', isSoftware: bench.isSoftware, ...shape });
  const flop = 2 * b * h * s * (2 * r + rr);
  const peers = [...tfjs, ...results('decode')];
  const line = { shape: nameOf(shape), flop, peers };
  const numbers = b * s * (r + rr);
  return [
    {
      ...line,
      kernel: 'decode',
      lane: laneOf([explain('mlaDecode', shapes, { softmaxScale })]),
      ours,
      bytes: 4 * numbers,
    },
    ...(packed ? [{ ...line, kernel: 'decode, packed cache' as const, ...packed, bytes: 2 * numbers }] : []),
  ];
}

/** The same token over a cache of packed float16, where the backend has one. */
async function measurePacked(
  { b, s, r, rr }: DecodeShape,
  bench: Bench,
  [qLatent, qRope, cKv, kRope]: [tf.Tensor4D, tf.Tensor4D, tf.Tensor3D, tf.Tensor3D],
): Promise<{ lane: string; ours: Figure } | undefined> {
  if (tf.getBackend() !== 'webgpu') return undefined;
  const cache = new LatentCache({ batch: b, capacity: s, latentRank: r, ropeDim: rr, storage: 'float16' });
  cache.append(cKv, kRope);
  const ours = await measure(
    () => mlaDecode(qLatent, qRope, cache.cKv, cache.kRope, { softmaxScale }),
    bench.clock,
  );
  const shapes = { qLatent: qLatent.shape, qRope: qRope.shape };
  const ofCache = { cKv: cache.cKv.shape, kRope: cache.kRope.shape, cacheFormat: 'float16' } as const;
  const lane = laneOf([explain('mlaDecode', { ...shapes, ...ofCache }, { softmaxScale })]);
  cache.dispose();
  return { lane, ours };
}
