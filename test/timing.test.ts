/** How candidates are timed against each other, on a GPU that is made up: its clock rises and falls as it is told. */
import type { Stopwatch } from '../kernels/webgpu/stopwatch.js';
import { timeCandidates } from '../kernels/webgpu/timing.js';
import type { Tunable } from '../kernels/webgpu/timing.js';
import { tuneKernels } from '../kernels/webgpu/tune.js';
import * as tuner from '../src/core/tuner.js';
import type { Subject } from '../src/core/tuner.js';
import { expectEqual, expectRejects } from './support/expect.js';

const subject: Subject = { device: 'a GPU', kernel: 'MLAAttention', bucket: 'small' };

function forget(): void {
  tuner.keepTuningIn(undefined);
}

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
      compile: async (candidate) => {
        throw new Error(`${candidate}: 1:1 error`);
      },
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
