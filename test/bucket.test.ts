/** Which problems share a bucket, and with it a winner. */
import { bucketOf } from '../src/core/bucket.js';
import { attentionProblem, decodeProblem } from '../src/core/problem.js';
import type { AttentionOptions, MlaProblem } from '../src/core/problem.js';
import { expectEqual, expectTrue } from './support/expect.js';

interface Sizes {
  b?: number;
  sq?: number;
  skv?: number;
  hq?: number;
  hkv?: number;
  dqk?: number;
  dv?: number;
}

function problem(sizes: Sizes = {}, options: AttentionOptions = {}): MlaProblem {
  const { b = 1, sq = 1000, skv = 1000, hq = 4, hkv = 4, dqk = 24, dv = 16 } = sizes;
  const tensor = (...shape: number[]): { shape: number[]; dtype: string } => ({ shape, dtype: 'float32' });
  const inputs = { q: tensor(b, sq, hq, dqk), k: tensor(b, skv, hkv, dqk), v: tensor(b, skv, hkv, dv) };
  return attentionProblem('test', inputs, options);
}

describe('tuner: buckets', () => {
  const usual = bucketOf(problem());
  const same: Record<string, MlaProblem> = {
    'lengths that round to one power of two': problem({ sq: 1023, skv: 1400 }),
    'batch and heads that do so together': problem({ b: 2, hq: 2, hkv: 2 }),
    'another scale': problem({}, { softmaxScale: 2 }),
    'a window that is wider than the lengths': problem({}, { window: [4000, 4000] }),
    'the caller holding lse': problem({}, { returnLse: true }),
  };
  const other: Record<string, MlaProblem> = {
    'four times the rows': problem({ sq: 4000 }),
    'four times the keys': problem({ skv: 4000 }),
    'four times the heads': problem({ hq: 16, hkv: 16 }),
    'grouped heads': problem({ hkv: 2 }),
    'one more column of a key': problem({ dqk: 25 }),
    'one more column of a value': problem({ dv: 17 }),
    'a causal mask': problem({}, { causal: true }),
    'a causal mask at the top left': problem({}, { causal: 'top-left' }),
    'a window': problem({}, { window: [64, 0] }),
    lengths: problem({}, { kvLengths: [7] }),
    'another precision': problem({}, { precision: 'float16' }),
  };

  for (const [name, each] of Object.entries(same)) {
    it(`the same: ${name}`, () => expectEqual(bucketOf(each), usual));
  }
  for (const [name, each] of Object.entries(other)) {
    it(`another: ${name}`, () => expectTrue(bucketOf(each) !== usual, usual));
  }
  it('each is another one', () => {
    const all = [usual, ...Object.values(other).map(bucketOf)];
    expectEqual(new Set(all).size, all.length);
  });

  it('says what it stands for; what has no rows has one too', () => {
    expectEqual(
      bucketOf(problem({ sq: 0, skv: 1 }, { kvLengths: [1], causal: 'top-left' })),
      'mlaAttention float32 group=1 dn=24 dr=0 dv=16 heads=4 sq=0 skv=1 left=all right=0 top-left kvLengths',
    );
    const tensor = (...shape: number[]): { shape: number[]; dtype: string } => ({ shape, dtype: 'float32' });
    const inputs = { qLatent: tensor(1, 1, 16, 512), qRope: tensor(1, 1, 16, 64) };
    const caches = { cKv: tensor(1, 2047, 512), kRope: tensor(1, 2047, 64) };
    expectEqual(
      bucketOf(decodeProblem('test', { ...inputs, ...caches }, { softmaxScale: 1 })),
      'mlaDecode float32 group=16 dn=512 dr=64 dv=512 heads=16 sq=1 skv=2048 left=all right=0',
    );
  });
});
