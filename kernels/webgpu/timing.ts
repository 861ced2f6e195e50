/**
 * Times the candidates of one kernel against each other.
 *
 * A GPU that rests between short launches works at a fifth of its clock, and a warm laptop slows down under way. So it
 * is heated first; each timing stands between two probes, fixed pieces of work, and is repeated when one is slow; and
 * what is compared are times in units of the probes beside them.
 */
import type { Subject } from '../../src/core/tuner.js';
import type { Stopwatch } from './stopwatch.js';

/** A kernel on a problem, in all the ways in which it can run. */
export interface Tunable extends Subject {
  /** names of the legal ones; first the one that runs as long as nothing was timed */
  candidates: string[];
  /** bytes of its inputs */
  bytes: number;
  /** Makes the inputs. Rejects when the device cannot hold them. */
  prepare(): Promise<void>;
  compile(candidate: string): Promise<void>;
  /** Enqueues one call, without waiting for it. */
  run(candidate: string): void;
  dispose(): void;
}

export interface TimingOptions {
  /** Asked before each candidate, after the first one. */
  isOver: () => boolean;
  /** Awaited between candidates. */
  pause?: () => Promise<void>;
  /** Milliseconds of GPU time after which no further candidate is begun, once two were timed. */
  budgetMs?: number;
  /** Told of each candidate; ms is a first figure, the table has the last one. */
  onTime?: (candidate: string, ms: number) => void;
}

/** GPU time of one timing, and of the work that raises the clock. */
const streamMs = 15;
const heatMs = 30;
const mostRuns = 64;
const mostHeats = 12;
const mostRepeats = 4;
const samples = 3;
/** A probe that takes this much longer than the fastest one is slow. */
const slow = 1.15;
/** A candidate that is this much slower than the best one gets no second timing. */
const hopeless = 1.5;

/** Milliseconds a call of each candidate that was timed. */
export async function timeCandidates(
  tunable: Tunable,
  watch: Stopwatch,
  { isOver, pause, budgetMs = Infinity, onTime }: TimingOptions,
): Promise<Record<string, number>> {
  const { candidates } = tunable;
  let spentMs = 0;
  let fastestProbe = Infinity;
  const probe = async (): Promise<number> => {
    const ms = await watch.probe();
    spentMs += ms;
    fastestProbe = Math.min(fastestProbe, ms);
    return ms;
  };
  const time = async (candidate: string, runs: number): Promise<number> => {
    const ms = await watch.time(() => tunable.run(candidate), runs);
    spentMs += ms * runs;
    return ms;
  };
  const runsFor = (ms: number, totalMs: number): number =>
    Math.max(1, Math.min(mostRuns, Math.round(totalMs / ms)));

  /** Works until the clock no longer rises. */
  const heat = async (candidate: string, once: number): Promise<void> => {
    let last = await probe();
    for (let n = 0; n < mostHeats; n++) {
      for (let ms = 0; ms < heatMs;) {
        const runs = runsFor(once, heatMs);
        ms += runs * (await time(candidate, runs));
      }
      const next = await probe();
      if (n > 1 && next > 0.97 * last && next < slow * fastestProbe) return;
      last = next;
    }
  };

  /** A timing in units of its probes: of a few, the one with the fastest. */
  const sample = async (candidate: string, once: number): Promise<number> => {
    let best = { probe: Infinity, units: Infinity };
    for (let n = 0; n < mostRepeats && best.probe > slow * fastestProbe; n++) {
      const runs = runsFor(once, n === 0 ? streamMs : heatMs); // after a slow one, the work itself heats
      const before = await probe();
      const ms = await time(candidate, runs);
      const after = await probe();
      const slower = Math.max(before, after);
      if (slower < best.probe) best = { probe: slower, units: (2 * ms) / (before + after) };
    }
    return best.units;
  };

  const units: Record<string, number> = {};
  for (const candidate of candidates) {
    if (candidate !== candidates[0]) {
      await pause?.();
      const isSpent = spentMs > budgetMs && Object.keys(units).length > 1; // one alone says nothing
      if (isOver() || isSpent) break;
    }
    await tunable.compile(candidate);
    await time(candidate, 1); // the first run after compiling is no measure
    const once = await time(candidate, 1);
    if (candidate === candidates[0]) await heat(candidate, once);
    const best = Math.min(...Object.values(units));
    const found: number[] = [];
    do found.push(await sample(candidate, once));
    while (found.length < samples && found[0] < hopeless * best && once < 10 * streamMs);
    units[candidate] = median(found);
    onTime?.(candidate, units[candidate] * fastestProbe);
  }
  return Object.fromEntries(Object.entries(units).map(([name, value]) => [name, value * fastestProbe]));
}

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[values.length >> 1];
}
