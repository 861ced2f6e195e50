import type { SteadyClock } from './clock.js';

/** What one call takes. */
export interface Figure {
  /** median milliseconds a call, in a stream of calls with one wait at its end */
  wallMs: number;
  /** shortest and longest of the streams */
  spreadMs: [number, number];
  /** median milliseconds of GPU time a call by timestamps, where the device has them */
  gpuMs?: number;
  /** the GPU's clock never settled while this was measured */
  isSlow: boolean;
}

/** Queues this many calls, waits for the last one to end, and gives the milliseconds a call. */
export type Stream = (calls: number) => Promise<number>;

const streams = 5;
/** Of slow calls, in what a stream may take. */
const mostSlowCalls = 20;
const longestStreamMs = 1000;
/** Of short ones, in what a stream should take: the wait at its end takes as long as some of them. */
const mostCalls = 100;
const shortestStreamMs = 20;
const mostRepeats = 20;
/**
 * How long the calls between two timestamps take on the wall, and how many they are at most: what a pass costs besides
 * its dispatches, some 50 µs, is shared by all of them. A call of that length keeps the GPU busy by itself.
 */
const passMs = 5;
const mostCallsOfPass = 100;
/** What plain JavaScript needs until it is optimised. */
const warmUpMs = 400;

/** Measures the GPU time of a call, `repeats` times, each among `busyCalls` and behind as many others. */
export type GpuTime = (repeats: number, busyCalls: number) => Promise<number | undefined>;

/** Warms up (compiles), then measures streams of calls, and the GPU time of single ones. */
export async function measureStreams(
  stream: Stream,
  clock: SteadyClock,
  gpuTime: GpuTime = async () => undefined,
): Promise<Figure> {
  await stream(1);
  const once = await stream(1);
  const slowCalls = Math.min(mostSlowCalls, longestStreamMs / once);
  const shortCalls = Math.min(mostCalls, shortestStreamMs / once);
  const calls = Math.max(1, Math.round(Math.max(slowCalls, shortCalls)));
  const repeats = Math.min(mostRepeats, Math.max(streams, calls));
  if (once < 100)
    for (const start = performance.now(); performance.now() - start < warmUpMs;) await stream(calls);
  const { value, isSlow } = await clock.steadily(async () => {
    const times: number[] = [];
    for (let n = 0; n < streams; n++) times.push(await stream(calls));
    const spreadMs: [number, number] = [Math.min(...times), Math.max(...times)];
    const busyCalls = Math.min(mostCallsOfPass, Math.floor(passMs / median(times)));
    return { wallMs: median(times), spreadMs, gpuMs: await gpuTime(repeats, busyCalls) };
  });
  return { ...value, isSlow };
}

export function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
