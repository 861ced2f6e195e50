/** Our SIMD kernels as those of tfjs's 'wasm' backend. */
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { registerKernels } from '../../src/core/register.js';
import type { Kernels, Plan } from '../../src/core/register.js';
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

const backendName = 'wasm';

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
  registerKernels(backendName, kernels, { plan, compile: () => Promise.resolve() });
}

function plan(kernel: KernelName, { precision }: MlaProblem): Plan {
  const isNarrow = precision !== 'float32' && precision !== 'auto';
  return {
    kernel,
    backend: backendName,
    lane: 'simd',
    computePrecision: 'float32',
    tile: {},
    cacheKey: '',
    passedOver: isNarrow ? [{ candidate: precision, reason: 'the wasm backend computes in float32' }] : [],
  };
}
