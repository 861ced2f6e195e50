/** Tuning in the background: what a program calls is tuned while the program has nothing else to do. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { engine, env } from '@tensorflow/tfjs-core';
import { bucketOf } from '../../src/core/bucket.js';
import type { TuneJob } from '../../src/core/register.js';
import { findingOf } from '../../src/core/tuner.js';
import { openPassOf } from './pipeline.js';
import { gpuStopwatch } from './stopwatch.js';
import type { Tunable } from './timing.js';
import { tuneKernels } from './tune.js';

/** Of GPU time, for a kernel. */
const budgetMs = 2000;
/** Of its inputs, which lie beside the program's own. */
const mostBytes = 256 * 1024 * 1024;

/** Present while it is switched on. */
let running: AbortController | undefined;
const queue: { tunable: Tunable; backend: WebGPUBackend }[] = [];
/** A bucket gets one try, whatever comes of it. */
const tried = new WeakMap<GPUDevice, Set<string>>();
let isWorking = false;

/**
 * Whether kernels on WebGPU are tuned in the background. Default false.
 *
 * The first call of a bucket of problems that was never timed on this device runs at once, with the cost model's
 * choice; the candidates are timed when the page or program is idle, one kernel after the other, each with at most
 * 2 s of GPU time and 256 MB of inputs, and none is begun while tf.profile or tf.time measures. Later calls run with
 * the winner. Another tile adds in another order: results may differ in their last bits from then on.
 */
export function setAutoTune(on: boolean): void {
  if (on) {
    running ??= new AbortController();
  } else {
    running?.abort();
    running = undefined;
    queue.length = 0;
  }
}

/** To be told of each call of a kernel, after it was enqueued. */
export function noticeCall(
  { kernel, problem }: TuneJob,
  backend: WebGPUBackend,
  tunableFor: () => Tunable | undefined,
): void {
  if (!running) return;
  const { device } = backend;
  const known = tried.get(device) ?? new Set();
  tried.set(device, known);
  const key = `${kernel} ${bucketOf(problem)}`;
  if (known.has(key)) return;
  known.add(key);
  const tunable = tunableFor();
  if (!tunable || findingOf(tunable) || tunable.bytes > mostBytes) return;
  queue.push({ tunable, backend });
  if (!isWorking) void work();
}

async function work(): Promise<void> {
  isWorking = true;
  for (let next = queue.shift(); next; next = queue.shift()) {
    const { tunable, backend } = next;
    const signal = running?.signal;
    const pause = (): Promise<void> => idle(backend);
    try {
      await pause();
      await tuneKernels([tunable], () => gpuStopwatch(backend), { signal }, { budgetMs, pause });
    } catch (error) {
      // nobody waits for it: the cost model's choice stays
      console.warn(`tfjs-mla: ${tunable.kernel} was not tuned: ${(error as Error).message}`);
    }
  }
  isWorking = false;
}

/** Resolves when there is nothing else to do and nobody measures. */
async function idle(backend: WebGPUBackend): Promise<void> {
  do await idleTime();
  while (isMeasured(backend));
}

function isMeasured(backend: WebGPUBackend): boolean {
  const isTimed = openPassOf(backend)?.activeTimers;
  return Boolean(isTimed) || engine().state.profiling || env().getBool('WEBGPU_ENGINE_COMPILE_ONLY');
}

/** Never keeps a Node process from ending. */
function idleTime(): Promise<void> {
  return new Promise((resolve) => {
    if (typeof requestIdleCallback === 'function') {
      requestIdleCallback(() => resolve(), { timeout: 1000 });
    } else {
      const timer: unknown = setTimeout(resolve, 20);
      (timer as { unref?: () => void }).unref?.();
    }
  });
}
