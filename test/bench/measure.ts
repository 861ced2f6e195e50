import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';

export interface Measurement {
  /** median milliseconds a call, in a stream of calls with one wait at its end */
  wallMs: number;
  /** shortest and longest of the streams */
  spreadMs: [number, number];
  /** median milliseconds of GPU time a call by timestamps, where the device has them */
  gpuMs?: number;
}

/** Runs what has been queued to its end. */
async function finish(last: tf.Tensor): Promise<void> {
  if (tf.getBackend() === 'webgpu') {
    const backend = tf.backend() as WebGPUBackend;
    backend.ensureCommandEncoderReady();
    backend.endComputePassEncoder();
    backend.submitQueue();
    await backend.queue.onSubmittedWorkDone();
  } else {
    await last.data();
  }
}

async function stream(call: () => tf.Tensor, calls: number): Promise<number> {
  const start = performance.now();
  let last: tf.Tensor | undefined;
  for (let n = 0; n < calls; n++) {
    last?.dispose();
    last = tf.tidy(call);
  }
  if (last) await finish(last);
  last?.dispose();
  return (performance.now() - start) / calls;
}

/**
 * Warms up (compiles, and lifts the clocks of an idle GPU), then measures streams of calls. `call` returns one tensor
 * that depends on all of its work.
 */
export async function measure(
  call: () => tf.Tensor,
  { streams = 5, streamMs = 200 } = {},
): Promise<Measurement> {
  let once = await stream(call, 1);
  once = await stream(call, 1);
  const calls = Math.max(1, Math.min(50, Math.round(streamMs / once)));
  if (once < 100)
    for (const start = performance.now(); performance.now() - start < 400;) await stream(call, calls);
  const times: number[] = [];
  for (let n = 0; n < streams; n++) times.push(await stream(call, calls));
  times.sort((a, b) => a - b);
  const gpuMs = await gpuTime(call, streams);
  return { wallMs: median(times), spreadMs: [times[0], times[times.length - 1]], gpuMs };
}

/** tf.time gives each dispatch a pass between two timestamps; their sum leaves out the gaps between them. */
async function gpuTime(call: () => tf.Tensor, repeats: number): Promise<number | undefined> {
  if (tf.getBackend() !== 'webgpu') return undefined;
  if (!(tf.backend() as WebGPUBackend).device.features.has('timestamp-query')) return undefined;
  const times: number[] = [];
  for (let n = 0; n < repeats; n++) {
    await stream(call, 4);
    const { kernelMs } = await tf.time(() => tf.tidy(call).dispose());
    times.push(kernelMs as number);
  }
  times.sort((a, b) => a - b);
  return median(times);
}

function median(sorted: number[]): number {
  return sorted[Math.floor(sorted.length / 2)];
}
