/** Tuning: each kernel's candidates are timed, one kernel at a time, and the fastest are remembered. */
import { env } from '@tensorflow/tfjs-core';
import { fail } from '../../src/core/errors.js';
import type { TuneOptions, TuneRow } from '../../src/core/register.js';
import { findingFrom, remember } from '../../src/core/tuner.js';
import type { Stopwatch } from './stopwatch.js';
import { timeCandidates } from './timing.js';
import type { TimingOptions, Tunable } from './timing.js';

/** Two timings at once would measure each other: whoever comes waits for all before. */
let turn: Promise<unknown> = Promise.resolve();

/** Limits of a tuning that nobody waits for. */
export type TuneLimits = Pick<TimingOptions, 'budgetMs' | 'pause'>;

/**
 * Times all candidates of the kernels, and remembers the winner of each as soon as it is known. Of several with one
 * bucket only the first is timed. Resolves with a line for each candidate that was timed.
 */
export async function tuneKernels(
  tunables: Tunable[],
  makeWatch: () => Stopwatch,
  options: TuneOptions,
  limits: TuneLimits = {},
): Promise<TuneRow[]> {
  const before = turn;
  const ours = before.then(() => tuneInTurn(tunables, makeWatch, options, limits));
  turn = ours.catch(() => undefined);
  return ours;
}

async function tuneInTurn(
  tunables: Tunable[],
  makeWatch: () => Stopwatch,
  { onProgress, signal }: TuneOptions,
  limits: TuneLimits,
): Promise<TuneRow[]> {
  const seen = new Set<string>();
  const distinct = tunables.filter(({ kernel, bucket }) => {
    const isNew = !seen.has(`${kernel} ${bucket}`);
    seen.add(`${kernel} ${bucket}`);
    return isNew;
  });
  const total = distinct.reduce((sum, { candidates }) => sum + candidates.length, 0);
  const rows: TuneRow[] = [];
  const isOver = (): boolean => signal?.aborted === true;
  let done = 0;
  for (const tunable of distinct) {
    if (isOver()) break;
    const { kernel } = tunable;
    const onTime = (candidate: string, ms: number): void =>
      onProgress?.({ done: ++done, total, kernel, candidate, ms });
    rows.push(...(await tuneOne(tunable, makeWatch, { isOver, onTime, ...limits })));
  }
  return rows;
}

async function tuneOne(
  tunable: Tunable,
  makeWatch: () => Stopwatch,
  options: TimingOptions,
): Promise<TuneRow[]> {
  if (env().getBool('WEBGPU_ENGINE_COMPILE_ONLY'))
    fail('tune', 'WEBGPU_ENGINE_COMPILE_ONLY is set: nothing runs');
  const { kernel, bucket, candidates } = tunable;
  const watch = makeWatch();
  try {
    await tunable.prepare();
    const times = await timeCandidates(tunable, watch, options);
    const isAlone = candidates.length > 1 && Object.keys(times).length < 2; // nothing to compare it with
    const finding = isAlone ? undefined : findingFrom(times, candidates[0]);
    if (finding) remember(tunable, finding);
    return Object.entries(times).map(([candidate, ms]) => ({
      kernel,
      bucket,
      candidate,
      ms,
      isWinner: candidate === finding?.winner,
    }));
  } finally {
    tunable.dispose();
    watch.dispose();
  }
}
