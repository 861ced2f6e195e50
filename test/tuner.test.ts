/** The tuner without a GPU: buckets, what is remembered and where, and how candidates are timed against each other. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Stopwatch } from '../kernels/webgpu/stopwatch.js';
import { timeCandidates } from '../kernels/webgpu/timing.js';
import type { Tunable } from '../kernels/webgpu/timing.js';
import { tuneKernels } from '../kernels/webgpu/tune.js';
import { bucketOf } from '../src/core/bucket.js';
import { attentionProblem, decodeProblem } from '../src/core/problem.js';
import type { AttentionOptions, MlaProblem } from '../src/core/problem.js';
import * as tuner from '../src/core/tuner.js';
import type { Finding, Subject } from '../src/core/tuner.js';
import { fileStorage } from '../src/device/tuningStorage.js';
import { expectEqual, expectRejects, expectThrows, expectTrue } from './support/expect.js';
import { capturingWarnings } from './support/warnings.js';

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

const subject: Subject = { device: 'a GPU', kernel: 'MLAAttention', bucket: 'small' };
const finding: Finding = { winner: 'fast', times: { fast: 1, slow: 2 } };

function forget(): void {
  tuner.keepTuningIn(undefined);
}

describe('tuner: what is remembered', () => {
  beforeEach(forget);
  after(forget);

  it('is found for the same device, kernel and bucket alone', () => {
    tuner.remember(subject, finding);
    expectEqual(tuner.findingOf(subject), { ...subject, ...finding });
    expectEqual(tuner.winnerOf({ ...subject, device: 'another' }), undefined);
    expectEqual(tuner.winnerOf({ ...subject, kernel: 'MLAAttentionDq' }), undefined);
    expectEqual(tuner.winnerOf({ ...subject, bucket: 'large' }), undefined);
    tuner.clearTuning();
    expectEqual(tuner.winnerOf(subject), undefined);
  });

  it('is the fastest, but the usual candidate where that is as fast but for noise', () => {
    expectEqual(tuner.findingFrom({ usual: 1, other: 0.9 }, 'usual')?.winner, 'other');
    expectEqual(tuner.findingFrom({ usual: 1, other: 0.98 }, 'usual')?.winner, 'usual');
    expectEqual(tuner.findingFrom({ other: 0.123456 }, 'usual'), {
      winner: 'other',
      times: { other: 0.1235 },
    });
    expectEqual(tuner.findingFrom({}, 'usual'), undefined);
  });

  it('gives way to a candidate on trial, until that has run or thrown', () => {
    tuner.remember(subject, finding);
    expectEqual(
      tuner.asWinner(subject, 'slow', () => tuner.winnerOf(subject)),
      'slow',
    );
    expectEqual(tuner.winnerOf(subject), 'fast');
    const run = (): never => tuner.asWinner(subject, 'slow', () => fails('on trial'));
    expectThrows(run, 'on trial');
    expectEqual(tuner.winnerOf(subject), 'fast');
  });

  it('is told in place of the reasons of those that were timed', () => {
    const passedOver = ['slow', 'never timed'].map((candidate) => ({ candidate, reason: 'cost 7' }));
    expectEqual(tuner.withTimes(passedOver, 'fast', finding), [
      { candidate: 'slow', reason: 'tuned: 2 ms, the winner 1 ms' },
      { candidate: 'never timed', reason: 'cost 7' },
    ]);
    expectEqual(tuner.withTimes(passedOver, 'fast'), passedOver);
    expectEqual(tuner.withTimes(passedOver, 'slow', finding), passedOver, 'the winner does not run');
  });

  it('is bounded: the oldest go first', () => {
    const bucket = (n: number): Subject => ({ ...subject, bucket: `bucket ${n}` });
    for (let n = 0; n < 600; n++) {
      tuner.remember(bucket(n), finding);
      tuner.remember(subject, finding);
    }
    const { findings } = JSON.parse(tuner.exportTuning()) as { findings: Subject[] };
    expectEqual(findings.length, 512);
    expectEqual([tuner.winnerOf(bucket(88)), tuner.winnerOf(bucket(89))], [undefined, 'fast']);
    expectEqual(tuner.winnerOf(subject), 'fast');
  });
});

function fails(message: string): never {
  throw new Error(message);
}

describe('tuner: as JSON', () => {
  beforeEach(forget);
  after(forget);

  it('comes back', () => {
    tuner.remember(subject, finding);
    const json = tuner.exportTuning();
    tuner.clearTuning();
    tuner.remember({ ...subject, bucket: 'mine' }, finding);
    tuner.importTuning(json);
    expectEqual(
      [subject.bucket, 'mine'].map((bucket) => tuner.winnerOf({ ...subject, bucket })),
      ['fast', 'fast'],
    );
  });

  const entry = { ...subject, ...finding };
  const file = (findings: unknown, version = 1): string =>
    JSON.stringify({ format: 'tfjs-mla tuning', version, findings });
  const expected =
    'must be { device, kernel, bucket, winner, times: { candidate: ms } } with a time of the winner, got ';
  const refusals: Record<string, string> = {
    'importTuning: json must be what exportTuning() returned, got {"format': '{"format',
    'importTuning: json must be what exportTuning() returned, got null': 'null',
    'importTuning: json must be what exportTuning() returned, got {"findings":[]}': '{"findings":[]}',
    'importTuning: required: format version 1, got 2: another version of tfjs-mla wrote it': file([], 2),
    [`importTuning: findings[1] ${expected}7`]: file([entry, 7]),
    [`importTuning: findings[0] ${expected}{"device":"a GPU","kernel":"MatMul","bucket":"small","winner…`]:
      file([{ ...entry, kernel: 'MatMul' }]),
    [`importTuning: findings[0] ${expected}{"winner":"none","times":{"fast":1,"slow":2},"device":"a GPU…`]:
      file([{ winner: 'none', times: finding.times, ...subject }]),
    [`importTuning: findings[0] ${expected}{"times":{"fast":-1},"winner":"fast","device":"a GPU","kerne…`]:
      file([{ times: { fast: -1 }, winner: 'fast', ...subject }]),
  };
  for (const [message, json] of Object.entries(refusals)) {
    it(message, () => {
      tuner.remember(subject, finding);
      const before = tuner.exportTuning();
      expectThrows(() => tuner.importTuning(json), message);
      expectEqual(tuner.exportTuning(), before, 'findings');
    });
  }
});

describe('tuner: storage', () => {
  let folder: string;
  let path: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-mla-tuner-'));
    path = join(folder, 'caches', 'tuning.json');
    tuner.keepTuningIn(fileStorage(() => path));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  after(forget);

  it('a file outlives the process, and is there as a whole or not at all', () => {
    tuner.remember(subject, finding);
    tuner.remember({ ...subject, bucket: 'large' }, finding);
    expectEqual(readdirSync(join(folder, 'caches')), ['tuning.json']);
    expectEqual(readFileSync(path, 'utf8'), tuner.exportTuning());
    tuner.keepTuningIn(fileStorage(() => path));
    expectEqual(tuner.winnerOf(subject), 'fast');
    tuner.clearTuning();
    tuner.keepTuningIn(fileStorage(() => path));
    expectEqual(tuner.winnerOf(subject), undefined);
  });

  it('is read when something is asked for, and once', () => {
    let reads = 0;
    tuner.keepTuningIn({ read: () => void reads++, write: () => undefined });
    expectEqual(reads, 0);
    tuner.winnerOf(subject);
    tuner.winnerOf(subject);
    expectEqual(reads, 1);
  });

  it('what another process stored meanwhile is kept', () => {
    tuner.remember(subject, finding);
    const theirs = tuner.exportTuning().replace('"small"', '"theirs"');
    writeFileSync(path, theirs);
    tuner.remember({ ...subject, bucket: 'large' }, finding);
    const stored = JSON.parse(readFileSync(path, 'utf8')) as { findings: Subject[] };
    expectEqual(
      stored.findings.map(({ bucket }) => bucket),
      ['theirs', 'small', 'large'],
    );
  });

  it('broken content is ignored with one warning, and replaced', () => {
    tuner.remember(subject, finding);
    writeFileSync(path, 'no JSON');
    tuner.keepTuningIn(fileStorage(() => path));
    const warnings = capturingWarnings(() => {
      expectEqual([tuner.winnerOf(subject), tuner.winnerOf(subject)], [undefined, undefined]);
      tuner.remember(subject, finding);
    });
    expectEqual(warnings, [
      'tfjs-mla: stored tuning is not used: importTuning: json must be what exportTuning() returned, got no JSON',
    ]);
    expectEqual(readFileSync(path, 'utf8'), tuner.exportTuning());
  });

  it('where nothing can be written there is one warning, and findings last as long as the process', () => {
    writeFileSync(join(folder, 'caches'), 'a file where the folder would be');
    const warnings = capturingWarnings(() => {
      tuner.remember(subject, finding);
      tuner.remember({ ...subject, bucket: 'large' }, finding);
    });
    expectEqual(warnings.length, 1);
    expectEqual(tuner.winnerOf(subject), 'fast');
  });
});

/** A GPU whose clock is told to it: milliseconds at full clock by candidate. */
class FakeGpu implements Stopwatch {
  slowness = 1;
  busyMs = 0;
  timings: string[] = [];
  /** called before each piece of work, to change the clock */
  before: () => void = () => undefined;
  disposed = 0;
  private ran = '';

  /** `share`: the exponent by which a candidate follows the clock, as the probe does; less where memory is the limit */
  constructor(
    readonly fullClockMs: Record<string, number>,
    readonly share = 1,
  ) {}

  tunable(bucket = 'small'): Tunable {
    return {
      ...subject,
      bucket,
      candidates: Object.keys(this.fullClockMs),
      bytes: 0,
      prepare: async () => undefined,
      compile: async () => undefined,
      run: (candidate) => void (this.ran = candidate),
      dispose: () => void this.disposed++,
    };
  }

  async time(run: () => void, most: number): Promise<number> {
    run();
    this.before();
    this.timings.push(this.ran);
    const ms = this.fullClockMs[this.ran] * this.slowness ** this.share;
    this.busyMs += ms * most;
    return ms;
  }

  async probe(): Promise<number> {
    this.before();
    this.busyMs += 2 * this.slowness;
    return 2 * this.slowness;
  }

  dispose(): void {
    this.disposed++;
  }
}

const times = { usual: 0.5, fast: 0.4, slow: 0.6, hopeless: 3 };
const options = { isOver: () => false };

function expectTimes(got: Record<string, number>, expected: Record<string, number>): void {
  const rounded = Object.entries(got).map(([name, ms]) => [name, Number(ms.toPrecision(6))]);
  expectEqual(Object.fromEntries(rounded), expected);
}

describe('tuner: timing', () => {
  it('is right on a GPU that begins with a fifth of its clock', async () => {
    const gpu = new FakeGpu(times, 0.5);
    gpu.before = () => (gpu.slowness = gpu.busyMs < 150 ? 5 : 1);
    expectTimes(await timeCandidates(gpu.tunable(), gpu, options), times);
  });

  it('is right on a GPU that falls to its idle clock between candidates', async () => {
    const gpu = new FakeGpu(times, 0.5);
    let restUntil = 0;
    gpu.before = () => (gpu.slowness = gpu.busyMs < restUntil ? 5 : 1);
    const pause = async (): Promise<void> => void (restUntil = gpu.busyMs + 40);
    expectTimes(await timeCandidates(gpu.tunable(), gpu, { ...options, pause }), times);
  });

  it('repeats what stands beside a slow probe', async () => {
    let slowProbes = 0;
    class Hiccuping extends FakeGpu {
      override async probe(): Promise<number> {
        const isAfterFirst = this.timings.filter((name) => name === 'fast').length === 3;
        return isAfterFirst && slowProbes++ === 0 ? 7 : super.probe();
      }
    }
    const gpu = new Hiccuping(times);
    expectTimes(await timeCandidates(gpu.tunable(), gpu, options), times);
    expectEqual(gpu.timings.filter((name) => name === 'fast').length, 2 + 3 + 1, 'runs');
  });

  it('compares fairly on a GPU that slows down for good', async () => {
    const gpu = new FakeGpu(times);
    gpu.before = () => {
      if (gpu.timings.includes('fast')) gpu.slowness = 2;
    };
    expectTimes(await timeCandidates(gpu.tunable(), gpu, options), times);
  });

  it('times a candidate that is far slower than the best one no second time', async () => {
    const gpu = new FakeGpu(times);
    await timeCandidates(gpu.tunable(), gpu, options);
    const count = (name: string): number => gpu.timings.filter((each) => each === name).length;
    // two runs before the timings
    expectEqual([count('fast'), count('slow'), count('hopeless')], [2 + 3, 2 + 3, 2 + 1]);
  });

  it('begins no candidate after its budget is spent, or when it is over', async () => {
    const gpu = new FakeGpu(times);
    expectTimes(await timeCandidates(gpu.tunable(), gpu, { ...options, budgetMs: 1 }), {
      usual: 0.5,
      fast: 0.4,
    });
    let told = 0;
    const onTime = (): void => void told++;
    const isOver = (): boolean => told === 2;
    expectTimes(await timeCandidates(gpu.tunable(), gpu, { isOver, onTime }), { usual: 0.5, fast: 0.4 });
  });
});

describe('tuner: tuning', () => {
  beforeEach(forget);
  after(forget);

  it('remembers winners, tells its progress, and times a bucket once', async () => {
    const gpu = new FakeGpu({ usual: 0.5, fast: 0.25 });
    const steps: unknown[] = [];
    const tunables = [gpu.tunable(), gpu.tunable('large'), gpu.tunable()];
    const rows = await tuneKernels(tunables, () => gpu, {
      onProgress: ({ done, total, kernel, candidate, ms }) =>
        steps.push([done, total, kernel, candidate, ms]),
    });
    expectEqual(steps, [
      [1, 4, 'MLAAttention', 'usual', 0.5],
      [2, 4, 'MLAAttention', 'fast', 0.25],
      [3, 4, 'MLAAttention', 'usual', 0.5],
      [4, 4, 'MLAAttention', 'fast', 0.25],
    ]);
    expectEqual(rows.slice(0, 2), [
      { kernel: 'MLAAttention', bucket: 'small', candidate: 'usual', ms: 0.5, isWinner: false },
      { kernel: 'MLAAttention', bucket: 'small', candidate: 'fast', ms: 0.25, isWinner: true },
    ]);
    expectEqual(
      rows.map(({ bucket }) => bucket),
      ['small', 'small', 'large', 'large'],
    );
    expectEqual(tuner.winnerOf({ ...subject, bucket: 'large' }), 'fast');
    expectEqual(gpu.disposed, 4, 'tunables and stopwatches disposed');
  });

  it('an AbortSignal ends it between candidates, and what was measured is remembered', async () => {
    const gpu = new FakeGpu({ usual: 0.5, fast: 0.25, fastest: 0.125 });
    const controller = new AbortController();
    const rows = await tuneKernels([gpu.tunable(), gpu.tunable('large')], () => gpu, {
      signal: controller.signal,
      onProgress: ({ done }) => {
        if (done === 2) controller.abort();
      },
    });
    expectEqual(
      rows.map(({ candidate }) => candidate),
      ['usual', 'fast'],
    );
    expectEqual(tuner.winnerOf(subject), 'fast');
    expectEqual(tuner.winnerOf({ ...subject, bucket: 'large' }), undefined);
  });

  it('a shader that does not compile rejects; the kernels before it are remembered, the next ones can be tuned', async () => {
    const gpu = new FakeGpu({ usual: 0.5 });
    const broken: Tunable = {
      ...gpu.tunable('broken'),
      compile: async (candidate) => fails(`${candidate}: 1:1 error`),
    };
    const failing = tuneKernels([gpu.tunable(), broken], () => gpu, {});
    const waiting = tuneKernels([gpu.tunable('large')], () => gpu, {});
    await expectRejects(() => failing, 'usual: 1:1 error');
    await waiting;
    expectEqual(
      ['small', 'broken', 'large'].map((bucket) => tuner.winnerOf({ ...subject, bucket })),
      ['usual', undefined, 'usual'],
    );
    expectEqual(gpu.disposed, 6, 'tunables and stopwatches disposed');
  });

  it('one tuning waits for the other', async () => {
    const gpus = ['first', 'second'].map((name) => new FakeGpu({ [name]: 0.5 }));
    const order: string[] = [];
    await Promise.all(
      gpus.map((gpu) => {
        gpu.before = () => void order.push(Object.keys(gpu.fullClockMs)[0]);
        return tuneKernels([gpu.tunable()], () => gpu, {});
      }),
    );
    expectEqual(order, [...order].sort(), 'work on the GPU');
  });
});
