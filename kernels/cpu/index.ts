/** The reference, as the kernels of tfjs's 'cpu' backend. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { registerKernels } from '../../src/core/register.js';
import type { Kernels, Plan } from '../../src/core/register.js';
import { mlaAttention } from './mlaAttention.js';
import { mlaAttentionDkv } from './mlaAttentionDkv.js';
import { mlaAttentionDq } from './mlaAttentionDq.js';
import { mlaCacheAppend } from './mlaCacheAppend.js';
import { mlaDecode } from './mlaDecode.js';
import { mlaDecodeDkv } from './mlaDecodeDkv.js';
import { mlaDecodeDq } from './mlaDecodeDq.js';
import { mlaDelta } from './mlaDelta.js';

const backendName = 'cpu';

const kernels: Kernels<MathBackendCPU> = {
  [names.MLAAttention]: mlaAttention,
  [names.MLADelta]: mlaDelta,
  [names.MLAAttentionDq]: mlaAttentionDq,
  [names.MLAAttentionDkv]: mlaAttentionDkv,
  [names.MLADecode]: mlaDecode,
  [names.MLADecodeDq]: mlaDecodeDq,
  [names.MLADecodeDkv]: mlaDecodeDkv,
  [names.MLACacheAppend]: (_problem, inputs, backend) => mlaCacheAppend(inputs, backend),
};

/** Registers the kernels for the 'cpu' backend; a second call does nothing. */
export function registerCpuKernels(): void {
  registerKernels(backendName, kernels, {
    cacheFormats: ['float32', 'float16'],
    plan,
    compile: () => Promise.resolve(),
  });
}

function plan(kernel: KernelName, { precision }: MlaProblem): Plan {
  const isNarrow = precision !== 'float32' && precision !== 'auto';
  return {
    kernel,
    backend: backendName,
    lane: 'reference',
    computePrecision: 'float32',
    tile: {},
    cacheKey: '',
    passedOver: isNarrow
      ? [{ candidate: precision, reason: 'the cpu backend computes in float32, with float64 sums' }]
      : [],
  };
}
