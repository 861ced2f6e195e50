import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { gpuStopwatch } from '../../kernels/webgpu/stopwatch.js';
import type { Clock, SteadyClock } from './clock.js';
import { measureStreams, median } from './figure.js';
import type { Figure } from './figure.js';
import { isOnTensorflowGpu } from './memory.js';

/** Measures a call on the current backend. It returns one tensor, and queues all of its work before it returns. */
export function measure(call: () => tf.Tensor, clock: SteadyClock): Promise<Figure> {
  return measureStreams(
    (calls) => stream(call, calls),
    clock,
    (repeats, busyCalls) => gpuTime(call, repeats, busyCalls),
  );
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

/** Runs what has been queued to its end. */
async function finish(last: tf.Tensor): Promise<void> {
  if (tf.getBackend() === 'webgpu') {
    const backend = tf.backend() as WebGPUBackend;
    backend.ensureCommandEncoderReady();
    backend.endComputePassEncoder();
    backend.submitQueue();
    await backend.queue.onSubmittedWorkDone();
  } else if (isOnTensorflowGpu()) {
    // a number waits for all before it; the whole tensor would also be copied to the host
    const first = tf.tidy(() => tf.slice(tf.reshape(last, [-1]), 0, 1));
    await first.data();
    first.dispose();
  } else {
    await last.data();
  }
}

/** Calls of a stream that share one pass between two timestamps: a pass of its own costs each dispatch some microseconds. */
async function gpuTime(
  call: () => tf.Tensor,
  repeats: number,
  busyCalls: number,
): Promise<number | undefined> {
  if (!hasTimestamps()) return undefined;
  const stopwatch = gpuStopwatch(tf.backend() as WebGPUBackend);
  const times: number[] = [];
  for (let n = 0; n < repeats; n++) {
    if (busyCalls > 0) await stream(call, busyCalls); // the wait for the last timestamps has left the GPU idle
    times.push(await stopwatch.time(() => tf.tidy(call).dispose(), Math.max(1, busyCalls)));
  }
  stopwatch.dispose();
  return median(times);
}

async function kernelMs(call: () => tf.Tensor): Promise<number> {
  const time = await tf.time(() => tf.tidy(call).dispose());
  return time.kernelMs as number;
}

function hasTimestamps(): boolean {
  return (
    tf.getBackend() === 'webgpu' && (tf.backend() as WebGPUBackend).device.features.has('timestamp-query')
  );
}

const heatMs = 100;
const probeSize = 1024;

/** Of tfjs's webgpu backend: a matrix product of tfjs's own. */
export const tfjsClock: Clock = {
  heat: () =>
    withMatrix(async (product) => {
      for (const start = performance.now(); performance.now() - start < heatMs;) await stream(product, 50);
    }),
  probe: () =>
    withMatrix(async (product) => {
      const times: number[] = [];
      await stream(product, 20);
      for (let n = 0; n < 5; n++)
        times.push(hasTimestamps() ? await kernelMs(product) : await stream(product, 20));
      return Math.min(...times);
    }),
};

/** Made anew each time: a device that was replaced in between takes its tensors along. */
async function withMatrix<T>(run: (product: () => tf.Tensor) => Promise<T>): Promise<T> {
  const matrix = tf.fill<tf.Rank.R2>([probeSize, probeSize], 1 / probeSize);
  try {
    return await run(() => tf.matMul(matrix, matrix));
  } finally {
    matrix.dispose();
  }
}
