/** Our WGSL shaders as the kernels of tfjs's 'webgpu' backend. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { getKernel, registerKernel } from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { KernelInputs } from '../../src/core/kernelInputs.js';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { registerPlanner } from '../../src/core/register.js';
import { backendName, planner } from './plans.js';
import { runAttentionDkv, runCacheAppend, runDecodeDkv, runDelta, runDq, runForward } from './run.js';

type Kernel<Inputs> = (
  problem: MlaProblem,
  inputs: Inputs,
  backend: WebGPUBackend,
) => TensorInfo | TensorInfo[];

const kernels: { [Name in KernelName]: Kernel<KernelInputs[Name]> } = {
  [names.MLAAttention]: (...call) => runForward(names.MLAAttention, ...call),
  [names.MLADelta]: runDelta,
  [names.MLAAttentionDq]: (...call) => runDq(names.MLAAttentionDq, ...call)[0],
  [names.MLAAttentionDkv]: (...call) => runAttentionDkv(names.MLAAttentionDkv, ...call),
  [names.MLADecode]: (...call) => runForward(names.MLADecode, ...call),
  [names.MLADecodeDq]: (...call) => runDq(names.MLADecodeDq, ...call),
  [names.MLADecodeDkv]: (...call) => runDecodeDkv(names.MLADecodeDkv, ...call),
  [names.MLACacheAppend]: (_problem, inputs, backend) => runCacheAppend(inputs, backend),
};

/** Registers the kernels for the 'webgpu' backend, whichever device it has; a second call does nothing. */
export function registerWebgpuKernels(): void {
  for (const kernelName of names.kernelNames) {
    if (getKernel(kernelName, backendName)) continue;
    // every kernel gets its own inputs: they were registered under its own name
    const kernel = kernels[kernelName] as Kernel<unknown>;
    registerKernel({
      kernelName,
      backendName,
      kernelFunc: ({ inputs, backend, attrs }) =>
        kernel(attrs as unknown as MlaProblem, inputs, backend as WebGPUBackend),
    });
  }
  registerPlanner(backendName, planner);
}
