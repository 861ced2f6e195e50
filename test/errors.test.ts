/** Messages of the other ops, of the cache, and of a backend without our kernels. */
import * as tf from '@tensorflow/tfjs-core';
import { currentPlanner } from '../src/core/register.js';
import {
  LatentCache,
  dotProductAttention,
  explain,
  mergeStates,
  mlaAttention,
  mlaDecode,
  setDefaultPrecision,
  warmup,
} from '../src/index.js';
import type { DotProductAttentionOptions, Layout } from '../src/index.js';
import { availableDevices, onEachDevice } from './support/devices.js';
import { expectEqual, expectRejects, expectThrows } from './support/expect.js';
import { disposed, ones, ones3, testRefusals, untyped } from './support/refusals.js';
import type { Refusals } from './support/refusals.js';

const qShape = [2, 5, 4, 8];
const kShape = [2, 7, 2, 8];
const vShape = [2, 7, 2, 6];

const state = (): { out: tf.Tensor4D; lse: tf.Tensor3D } => ({
  out: ones([2, 5, 4, 6]),
  lse: ones3([2, 4, 5]),
});

/** A call that is right but for what is given. */
function dot(options: DotProductAttentionOptions): tf.Tensor {
  return dotProductAttention(ones(qShape), ones(kShape), ones(vShape), options);
}

testRefusals('errors of mergeStates, dotProductAttention, explain and setDefaultPrecision', {
  'mergeStates: states must be at least one {out, lse}, got []': () => mergeStates([]),
  'mergeStates: states must be at least one {out, lse}, got [object Object]': () =>
    mergeStates(untyped({ out: 1 })),
  'mergeStates: layout must be one of bshd, bhsd, sbhd, got thd': () =>
    mergeStates([state()], { layout: 'thd' as Layout }),
  'mergeStates: states[1] is disposed': () =>
    mergeStates([state(), { ...state(), out: disposed(ones([2, 5, 4, 6])) }]),
  'mergeStates: states[0].out must be of rank 4, got rank 3 [2, 5, 6]': () =>
    mergeStates([{ ...state(), out: ones([2, 5, 6]) }]),
  'mergeStates: states[0].lse must be float32, got int32': () =>
    mergeStates([{ ...state(), lse: ones3([2, 4, 5], 'int32') }]),
  'mergeStates: states[1].out must be [2, 5, 4, 6] like states[0].out, got [2, 5, 4, 7]': () =>
    mergeStates([state(), { ...state(), out: ones([2, 5, 4, 7]) }]),
  "mergeStates: states[0].lse must be [b=2, h=4, s=5] for layout 'bshd', got [2, 5, 4]": () =>
    mergeStates([{ ...state(), lse: ones3([2, 5, 4]) }]),
  "dotProductAttention: k must be [b=2, skv, hkv, dqk=8] for layout 'bshd', got [1, 7, 2, 8]": () =>
    dotProductAttention(ones(qShape), ones([1, 7, 2, 8]), ones(vShape)),
  'dotProductAttention: implementation must be one of auto, fused, composed, got flash': () =>
    dot(untyped({ implementation: 'flash' })),
  'dotProductAttention: dropout must be from 0 to 1 (excluded), got 1': () => dot({ dropout: 1 }),
  'dotProductAttention: mask must be bool, got float32': () => dot({ mask: tf.ones([5, 7]) }),
  'dotProductAttention: mask must be broadcastable to [b=2, hq=4, sq=5, skv=7], got [7, 5]': () =>
    dot({ mask: tf.ones([7, 5], 'bool') }),
  'dotProductAttention: bias must be broadcastable to [b=2, hq=4, sq=5, skv=7], got [2, 4, 1, 8]': () =>
    dot({ bias: tf.ones([2, 4, 1, 8]) }),
  'dotProductAttention: bias must be broadcastable to [b=2, hq=4, sq=5, skv=7], got [1, 1, 1, 1, 7]': () =>
    dot({ bias: tf.ones([1, 1, 1, 1, 7]) }),
  "dotProductAttention: required: mask, bias, dropout; supported: causal, window, lengths, kRope, grouped heads; missing: mask, bias, dropout. implementation 'auto' or 'composed' would work":
    () => dot({ implementation: 'fused', mask: tf.ones([5, 7], 'bool'), bias: tf.ones([7]), dropout: 0.1 }),
  'setDefaultPrecision: precision must be one of float32, float16, bfloat16, tf32, auto, got half': () =>
    setDefaultPrecision(untyped('half')),
  "explain: v must be [b, skv, hkv, dv] for layout 'bshd', got rank 3 [2, 7, 2]": () =>
    explain('mlaAttention', { q: [2, 5, 4, 8], k: [2, 7, 2, 8], v: [2, 7, 2] }),
  'explain: kernel must be one of MLAAttention, MLADelta, MLAAttentionDq, MLAAttentionDkv for mlaAttention, got MLADecode':
    () => explain('mlaAttention', { q: qShape, k: kShape, v: vShape }, {}, 'MLADecode'),
  "explain: op must be 'mlaAttention' or 'mlaDecode', got softmax": () =>
    explain(untyped<'mlaAttention'>('softmax'), { q: qShape, k: kShape, v: vShape }),
});

const config = { batch: 2, capacity: 10, latentRank: 16, ropeDim: 8 };

/** Runs on a cache that holds 6 and 9 of 10 rows. */
function onCache(use: (cache: LatentCache) => unknown): () => unknown {
  return () => {
    const cache = new LatentCache(config);
    cache.append(ones3([2, 9, 16]), ones3([2, 9, 8]), [6, 9]);
    try {
      return use(cache);
    } finally {
      cache.dispose();
    }
  };
}

const row = (columns: number, n = 1, batch = 2): tf.Tensor3D => ones3([batch, n, columns]);

testRefusals('errors of LatentCache', {
  'LatentCache: batch must be a positive integer, got 0': () => new LatentCache({ ...config, batch: 0 }),
  'LatentCache: capacity must be a positive integer, got 1.5': () =>
    new LatentCache({ ...config, capacity: 1.5 }),
  'LatentCache: latentRank must be a positive integer, got NaN': () =>
    new LatentCache({ ...config, latentRank: NaN }),
  'LatentCache: ropeDim must be an integer from 0, got -1': () => new LatentCache({ ...config, ropeDim: -1 }),
  "LatentCache: latentRank must be even for storage 'float16', got 15": () =>
    new LatentCache({ ...config, latentRank: 15, storage: 'float16' }),
  "LatentCache: ropeDim must be even for storage 'float16', got 7": () =>
    new LatentCache({ ...config, ropeDim: 7, storage: 'float16' }),
});

describe('errors of a storage that the backend does not have', () => {
  const shapes = { qLatent: [2, 1, 3, 16], qRope: [2, 1, 3, 8], cKv: [2, 9, 8], kRope: [2, 9, 4] };
  const packedCall = { ...shapes, cacheFormat: 'float16' as const };
  const options = { softmaxScale: 1 };

  onEachDevice(({ backend }) => {
    const message = (fn: string, storage: string, supported: string): string =>
      `${fn}: required: storage '${storage}', supported on backend '${backend}': ${supported}; missing: kernels for that format. storage 'float32' would work`;

    it('that no backend has', () => {
      const before = tf.memory().numTensors;
      expectThrows(
        () => new LatentCache({ ...config, storage: untyped('int8') }),
        message('LatentCache', 'int8', "'float32', 'float16'"),
      );
      expectEqual(tf.memory().numTensors, before, 'tensors left');
    });

    it('that others have', async () => {
      const planner = currentPlanner('test');
      const { cacheFormats } = planner;
      planner.cacheFormats = ['float32'];
      const expected = (fn: string): string => message(fn, 'float16', "'float32'");
      const before = tf.memory().numTensors;
      try {
        expectThrows(() => new LatentCache({ ...config, storage: 'float16' }), expected('LatentCache'));
        expectThrows(() => explain('mlaDecode', packedCall, options), expected('explain'));
        await expectRejects(
          () => warmup([{ op: 'mlaDecode', shapes: packedCall, options }]),
          expected('warmup'),
        );
        tf.tidy(() => {
          const queries = [ones(shapes.qLatent), ones(shapes.qRope)] as const;
          const cache = [ones3(shapes.cKv, 'int32'), ones3(shapes.kRope, 'int32')] as const;
          expectThrows(() => mlaDecode(...queries, ...cache, options), expected('mlaDecode'));
        });
      } finally {
        planner.cacheFormats = cacheFormats;
      }
      expectEqual(tf.memory().numTensors, before, 'tensors left');
    });
  });
});

const onFilled: Refusals = {
  'LatentCache.append: cKv must be [batch=2, n=1, latentRank=16], got [2, 1, 15]': onCache((cache) =>
    cache.append(row(15), row(8)),
  ),
  'LatentCache.append: cKv must be [batch=2, n=1, latentRank=16], got [1, 1, 16]': onCache((cache) =>
    cache.append(row(16, 1, 1), row(8)),
  ),
  'LatentCache.append: kRope must be [batch=2, n=1, ropeDim=8], got [2, 2, 8]': onCache((cache) =>
    cache.append(row(16), row(8, 2)),
  ),
  'LatentCache.append: kRope must be float32, got int32': onCache((cache) =>
    cache.append(row(16), ones3([2, 1, 8], 'int32')),
  ),
  'LatentCache.append: cKv is disposed': onCache((cache) => cache.append(disposed(row(16)), row(8))),
  'LatentCache.append: counts must be 2 integers from 0 to n=1, got [1, 2]': onCache((cache) =>
    cache.append(row(16), row(8), [1, 2]),
  ),
  'LatentCache.append: counts must be 2 integers from 0 to n=1, got [1]': onCache((cache) =>
    cache.append(row(16), row(8), [1]),
  ),
  'LatentCache.append: batch entry 1 holds 9 of capacity=10 rows, 2 more do not fit': onCache((cache) =>
    cache.append(row(16, 2), row(8, 2)),
  ),
  'LatentCache.truncate: lengths must be 2 integers from 0 to those held [6, 9], got [7, 9]': onCache(
    (cache) => cache.truncate([7, 9]),
  ),
  'LatentCache.truncate: lengths must be 2 integers from 0 to those held [6, 9], got [6]': onCache((cache) =>
    cache.truncate([6]),
  ),
  'LatentCache: the cache is disposed': onCache((cache) => {
    cache.dispose();
    return cache.cKv;
  }),
};

testRefusals('errors of a LatentCache that holds rows', onFilled, ['MLACacheAppend']);

describe('errors of a backend without our kernels', () => {
  const bare = 'bare';
  /** What the message lists: the backends whose doors this file has gone through. */
  const supported = 'cpu, wasm, webgpu';
  const message = (fn: string): string =>
    `${fn}: required: kernels for backend 'bare', supported: ${supported}; missing: import 'tfjs-mla/bare' if there is such a door, or choose a supported backend with tf.setBackend`;

  before(async () => {
    const [cpu] = availableDevices();
    await cpu.setUp();
  });

  /** The op on tensors of the cpu backend, while a backend that knows nothing of us is the current one. */
  function onBare(run: (x: tf.Tensor4D) => unknown): () => unknown {
    return () => {
      const x = ones(qShape);
      tf.registerBackend(bare, () => new tf.KernelBackend(), 0);
      const previous = tf.getBackend();
      tf.engine().backendName = bare;
      try {
        return run(x);
      } finally {
        tf.engine().backendName = previous;
        tf.removeBackend(bare);
        x.dispose();
      }
    };
  }

  it('mlaAttention', () =>
    expectThrows(
      onBare((x) => mlaAttention(x, x, x)),
      message('mlaAttention'),
    ));
  it('LatentCache', () =>
    expectThrows(
      onBare(() => new LatentCache(config)),
      message('LatentCache'),
    ));
  it('explain', () => {
    const shapes = { q: qShape, k: qShape, v: qShape };
    expectThrows(
      onBare(() => explain('mlaAttention', shapes)),
      message('explain'),
    );
  });
  it('warmup', () => expectRejects(onBare(() => warmup([])) as () => Promise<void>, message('warmup')));
  it('dotProductAttention, fused', () =>
    expectThrows(
      onBare((x) => dotProductAttention(x, x, x, { implementation: 'fused' })),
      "dotProductAttention: required: kernels for backend 'bare'; supported: causal, window, lengths, kRope, grouped heads; missing: kernels for backend 'bare'. implementation 'auto' or 'composed' would work",
    ));
});
