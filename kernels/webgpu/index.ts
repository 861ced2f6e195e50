/** Our WGSL shaders as the kernels of tfjs's 'webgpu' backend. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { backend as currentBackend } from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { registerKernels } from '../../src/core/register.js';
import type { Kernels, TuneJob, TuneOptions, TuneRow } from '../../src/core/register.js';
import { noticeCall } from './autoTune.js';
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
import { gpuStopwatch } from './stopwatch.js';
import { tunableFor } from './tunable.js';
import { tuneKernels } from './tune.js';

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

type AnyKernel = (problem: MlaProblem, inputs: unknown, backend: WebGPUBackend) => TensorInfo | TensorInfo[];

/** The same kernels; those that can run in several ways tell the tuner of each call. */
function noticed(all: Kernels<WebGPUBackend>): Kernels<WebGPUBackend> {
  const told = Object.entries(all as Record<KernelName, AnyKernel>).map(([name, run]) => {
    const kernel = name as KernelName;
    if (kernel === names.MLADelta || kernel === names.MLACacheAppend) return [kernel, run];
    const runAndTell: AnyKernel = (problem, inputs, backend) => {
      const outputs = run(problem, inputs, backend);
      noticeCall({ kernel, problem }, backend, () => tunableFor(all, { kernel, problem }, backend));
      return outputs;
    };
    return [kernel, runAndTell];
  });
  return Object.fromEntries(told) as Kernels<WebGPUBackend>;
}

async function tune(jobs: TuneJob[], options: TuneOptions): Promise<TuneRow[]> {
  const backend = currentBackend() as WebGPUBackend;
  const tunables = jobs.flatMap((job) => tunableFor(kernels, job, backend) ?? []);
  return tuneKernels(tunables, () => gpuStopwatch(backend), options);
}

/** Registers the kernels for the 'webgpu' backend, whichever device it has; a second call does nothing. */
export function registerWebgpuKernels(): void {
  registerKernels(backendName, noticed(kernels), { ...planner, tune });
}
