/** Our WGSL shaders as the kernels of tfjs's 'webgpu' backend. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as names from '../../src/core/names.js';
import { registerKernels } from '../../src/core/register.js';
import type { Kernels } from '../../src/core/register.js';
import { backendName, planner } from './plans.js';
import {
  runAttentionBackward,
  runAttentionDkv,
  runCacheAppend,
  runDecodeDkv,
  runDelta,
  runDq,
  runForward,
} from './run.js';

const kernels: Kernels<WebGPUBackend> = {
  [names.MLAAttention]: (...call) => runForward(names.MLAAttention, ...call),
  [names.MLADelta]: runDelta,
  [names.MLAAttentionDq]: (...call) => runDq(names.MLAAttentionDq, ...call)[0],
  [names.MLAAttentionDkv]: (...call) => runAttentionDkv(names.MLAAttentionDkv, ...call),
  [names.MLAAttentionBackward]: runAttentionBackward,
  [names.MLADecode]: (...call) => runForward(names.MLADecode, ...call),
  [names.MLADecodeDq]: (...call) => runDq(names.MLADecodeDq, ...call),
  [names.MLADecodeDkv]: (...call) => runDecodeDkv(names.MLADecodeDkv, ...call),
  [names.MLACacheAppend]: (_problem, inputs, backend) => runCacheAppend(inputs, backend),
};

/** Registers the kernels for the 'webgpu' backend, whichever device it has; a second call does nothing. */
export function registerWebgpuKernels(): void {
  registerKernels(backendName, kernels, planner);
}
