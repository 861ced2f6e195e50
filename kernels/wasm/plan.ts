/** How a kernel runs on this engine: the record of explain(), which the dispatch reads off the same memory. */
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { backend } from '@tensorflow/tfjs-core';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { PassedOver, Plan } from '../../src/core/register.js';
import { engineHas, isShared, kernelsFor, variantFor } from './compiled.js';
import { memoryOf, ownMemory } from './memory.js';
import { threadCount } from './threads.js';

export const backendName = 'wasm';

export function plan(kernel: KernelName, { precision }: MlaProblem): Plan {
  const shown = memoryOf(backend() as BackendWasm);
  const memory = shown ?? ownMemory();
  const { LEFT, RIGHT } = kernelsFor(memory);
  const passedOver: PassedOver[] = [];
  const passOver = (candidate: string, reason: string): void => void passedOver.push({ candidate, reason });
  if (precision !== 'float32' && precision !== 'auto')
    passOver(precision, 'the wasm backend computes in float32');
  if (!engineHas('relaxedSimd')) passOver('relaxed SIMD', 'this engine has none');
  if (!shown) passOver('in place', "this build of tfjs's backend hides its memory: tensors are copied");
  if (!isShared(memory)) passOver('threads', "the memory of tfjs's backend is not shared");
  else if (threadCount(memory) === 1) passOver('threads', 'startThreads() was not called');
  return {
    kernel,
    backend: backendName,
    lane: engineHas('relaxedSimd') ? 'relaxed SIMD' : 'SIMD',
    computePrecision: 'float32',
    tile: { LEFT: LEFT.value, RIGHT: RIGHT.value, THREADS: threadCount(memory) },
    cacheKey: variantFor(memory),
    passedOver,
  };
}
