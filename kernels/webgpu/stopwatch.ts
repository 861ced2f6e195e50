/**
 * GPU time of dispatches in a stream. By timestamps around the pass they go into, where the device has them; else by
 * the clock on the wall, from their submit to their end.
 */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { env } from '@tensorflow/tfjs-core';
import { dispatch, openPassOf } from './pipeline.js';
import type { Shader } from './pipeline.js';
import { packNumbers } from './problemUniforms.js';

export interface Stopwatch {
  /** Milliseconds of a run, in a stream of at most `most` of them. */
  time(run: () => void, most: number): Promise<number>;
  /** Milliseconds of a fixed piece of work: short where the GPU's clock is high. */
  probe(): Promise<number>;
  dispose(): void;
}

/** What runs leave behind is freed by a submit only: more of it than this, and the stream ends. */
const mostBytes = 256 * 1024 * 1024;

/** One chain of multiply-adds that wait for each other: as long on a large GPU as on a small one, if the clock is the same. */
const probeShader: Shader = {
  cacheKey: 'tunerProbe {}',
  access: ['write'],
  wgsl: () => `
struct Uniforms {
  steps: u32,
  a: f32,
  b: f32,
}
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<uniform> u: Uniforms;
@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) thread: u32) {
  var x = f32(thread);
  for (var step = 0u; step < u.steps; step++) {
    x = x * u.a + u.b;
    x = x * u.a + u.b;
    x = x * u.a + u.b;
    x = x * u.a + u.b;
  }
  y[thread] = x;
}`,
};
/** Some 2 ms on a GPU at 2 GHz. */
const probeSteps = packNumbers([
  ['u32', 1 << 17],
  ['f32', 0.5],
  ['f32', 1],
]);

export function gpuStopwatch(
  backend: WebGPUBackend,
  hasTimestamps = backend.device.features.has('timestamp-query'),
): Stopwatch {
  const timestamps = hasTimestamps ? timestampPair(backend.device) : undefined;
  const y = backend.makeTensorInfo([32], 'float32');

  const timeStream = async (run: () => void, most: number): Promise<number> => {
    submit(backend);
    await backend.queue.onSubmittedWorkDone();
    // all from here to the submit is synchronous: nobody else's work gets in between
    const open = openPassOf(backend);
    backend.endComputePassEncoder();
    backend.ensureCommandEncoderReady();
    const pass = open && timestamps && open.commandEncoder.beginComputePass(timestamps.descriptor);
    if (pass) open.computePassEncoder = pass;
    const runs = withoutSubmits(() => runStream(backend, run, most));
    // an upload ends the open pass: its timestamps are not those of the stream then
    const isWhole = pass !== undefined && open?.computePassEncoder === pass;
    backend.endComputePassEncoder();
    if (isWhole) timestamps?.resolve(open.commandEncoder);
    const start = performance.now();
    submit(backend);
    await backend.queue.onSubmittedWorkDone();
    const wallMs = performance.now() - start;
    const gpuMs = isWhole ? await timestamps?.read() : undefined;
    // a driver may answer with zeros
    return (gpuMs && gpuMs > 0 ? gpuMs : wallMs) / runs;
  };

  return {
    time: timeStream,
    probe: () => timeStream(() => dispatch(backend, probeShader, [y], probeSteps, [1, 1, 1]), 1),
    dispose: () => {
      backend.disposeData(y.dataId);
      timestamps?.destroy();
    },
  };
}

/** How often it ran: `most` times, or until too much memory waits for the submit. */
function runStream(backend: WebGPUBackend, run: () => void, most: number): number {
  const { numBytesInGPU: before } = backend.memory();
  let runs = 0;
  do {
    run();
    runs++;
  } while (runs < most && backend.memory().numBytesInGPU - before < mostBytes);
  return runs;
}

/** tfjs submits after so many dispatches; a stream is one submit. */
function withoutSubmits<T>(use: () => T): T {
  const flag = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE';
  const usual = env().getNumber(flag);
  env().set(flag, Infinity);
  try {
    return use();
  } finally {
    env().set(flag, usual);
  }
}

function submit(backend: WebGPUBackend): void {
  backend.ensureCommandEncoderReady();
  backend.endComputePassEncoder();
  backend.submitQueue();
}

interface TimestampPair {
  descriptor: GPUComputePassDescriptor;
  resolve(encoder: GPUCommandEncoder): void;
  /** milliseconds between the two; the commands must have been submitted */
  read(): Promise<number>;
  destroy(): void;
}

function timestampPair(device: GPUDevice): TimestampPair {
  const querySet = device.createQuerySet({ type: 'timestamp', count: 2 });
  const size = 16;
  const resolved = device.createBuffer({
    size,
    usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
  });
  const readable = device.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
  // the installed WebGPU types are older than this form of timestampWrites
  const timestampWrites = { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
  return {
    descriptor: { timestampWrites },
    resolve: (encoder) => {
      encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, readable, 0, size);
    },
    read: async () => {
      await readable.mapAsync(GPUMapMode.READ);
      const [begin, end] = new BigUint64Array(readable.getMappedRange());
      readable.unmap();
      return Number(end - begin) / 1e6;
    },
    destroy: () => {
      querySet.destroy();
      resolved.destroy();
      readable.destroy();
    },
  };
}
