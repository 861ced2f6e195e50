/** Our SIMD kernels as those of tfjs's 'wasm' backend. */
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { backend, getBackend } from '@tensorflow/tfjs-core';
import { fail } from '../../src/core/errors.js';
import * as names from '../../src/core/names.js';
import { registerKernels } from '../../src/core/register.js';
import type { Kernels } from '../../src/core/register.js';
import { backendName, plan } from './plan.js';
import {
  attentionTensors,
  decodeTensors,
  runAttentionDkv,
  runAttentionDq,
  runCacheAppend,
  runDecodeDkv,
  runDecodeDq,
  runDelta,
  runForward,
} from './run.js';
import { startPool, stopPool } from './threads.js';

const kernels: Kernels<BackendWasm> = {
  [names.MLAAttention]: (problem, inputs, backend) =>
    runForward(problem, attentionTensors(problem, inputs), backend),
  [names.MLADelta]: runDelta,
  [names.MLAAttentionDq]: runAttentionDq,
  [names.MLAAttentionDkv]: runAttentionDkv,
  [names.MLADecode]: (problem, inputs, backend) =>
    runForward(problem, decodeTensors(problem, inputs), backend),
  [names.MLADecodeDq]: runDecodeDq,
  [names.MLADecodeDkv]: runDecodeDkv,
  [names.MLACacheAppend]: (_problem, inputs, backend) => runCacheAppend(inputs, backend),
};

/** Registers the kernels for the 'wasm' backend; a second call does nothing. */
export function registerWasmKernels(): void {
  registerKernels(backendName, kernels, {
    cacheFormats: ['float32', 'float16'],
    plan,
    compile: () => Promise.resolve(),
  });
}

/**
 * Lets `count` threads share the work of every kernel of ours, with the same results bit for bit; by default one for
 * each processor, 8 at most. Resolves to the number of threads that there are then: 1 where the memory of tfjs's
 * backend is not shared, as in Node and in pages that are not cross-origin isolated.
 *
 * Throws if the current backend is not 'wasm' or count is not a positive integer; rejects if a worker cannot start.
 */
export async function startThreads(count = Math.min(8, navigator.hardwareConcurrency)): Promise<number> {
  if (!Number.isInteger(count) || count < 1) {
    fail('startThreads', `count must be a positive integer, got ${String(count)}`);
  }
  return startPool(currentBackend('startThreads'), count);
}

/**
 * Ends the threads that startThreads started; resolves when they are gone. Kernels may run meanwhile.
 *
 * Throws if the current backend is not 'wasm'.
 */
export async function stopThreads(): Promise<void> {
  await stopPool(currentBackend('stopThreads'));
}

function currentBackend(fn: string): BackendWasm {
  if (getBackend() !== backendName) fail(fn, `the backend must be '${backendName}', got '${getBackend()}'`);
  return backend() as BackendWasm;
}
