import { getBackend, getKernel, registerKernel } from '@tensorflow/tfjs-core';
import type { KernelBackend, TensorInfo } from '@tensorflow/tfjs-core';
import type { CacheFormat } from './cacheFormat.js';
import { fail } from './errors.js';
import type { KernelInputs } from './kernelInputs.js';
import { kernelNames } from './names.js';
import type { KernelName, MLAAttentionBackward } from './names.js';
import type { Precision } from './precision.js';
import type { MlaProblem } from './problem.js';

/** A way to run a kernel that was not taken, and why. */
export interface PassedOver {
  candidate: string;
  reason: string;
}

/** How one kernel would run on a backend: the very record that the backend's dispatch uses. */
export interface Plan {
  kernel: KernelName;
  backend: string;
  /** which family of code runs, such as 'reference' or 'T1' */
  lane: string;
  /** what the matrix products are computed in */
  computePrecision: Exclude<Precision, 'auto'>;
  /** the tile by its constants, such as { BLOCK_Q: 64, … } */
  tile: Record<string, number>;
  /** every constant that is compiled in, serialised; two calls with one key share a pipeline */
  cacheKey: string;
  passedOver: PassedOver[];
}

/** What a backend offers beside its kernels. */
export interface Planner {
  /** The formats of a LatentCache that the kernels read and write. */
  cacheFormats: readonly CacheFormat[];
  plan(kernel: KernelName, problem: MlaProblem): Plan;
  /** Whether the gradient takes MLAAttentionBackward in place of its parts; absent where there is no such kernel. */
  isBackwardJoined?(problem: MlaProblem): boolean;
  /** Compiles what the plan needs, without running it; rejects with the compiler's message and line. */
  compile(plan: Plan, problem: MlaProblem): Promise<void>;
  /** Times what a kernel can run with, and remembers the fastest; absent where there is nothing to choose from. */
  tune?(jobs: TuneJob[], options: TuneOptions): Promise<TuneRow[]>;
}

export interface TuneJob {
  kernel: KernelName;
  problem: MlaProblem;
}

/** One candidate, timed. */
export interface TuneProgress {
  /** candidates that are done, and how many there are in all kernels */
  done: number;
  total: number;
  kernel: KernelName;
  candidate: string;
  /** milliseconds of GPU time a call */
  ms: number;
}

export interface TuneOptions {
  onProgress?: (progress: TuneProgress) => void;
  /** Ends the tuning after the candidate that is being timed; what was measured is remembered. */
  signal?: AbortSignal;
}

/** A line of the table of results. */
export interface TuneRow {
  kernel: KernelName;
  /** the problems that this stands for */
  bucket: string;
  candidate: string;
  /** milliseconds of GPU time a call */
  ms: number;
  isWinner: boolean;
}

type Kernel<Inputs, Backend> = (
  problem: MlaProblem,
  inputs: Inputs,
  backend: Backend,
) => TensorInfo | TensorInfo[];

type AllKernels<Backend> = { [Name in KernelName]: Kernel<KernelInputs[Name], Backend> };

/** The kernels of a backend: all of them, but for the one that joins others. */
export type Kernels<Backend> = Omit<AllKernels<Backend>, typeof MLAAttentionBackward> &
  Partial<AllKernels<Backend>>;

const planners = new Map<string, Planner>();

/** Registers a backend's kernels and what plans them; kernels that are there already stay. */
export function registerKernels<Backend extends KernelBackend>(
  backendName: string,
  kernels: Kernels<Backend>,
  planner: Planner,
): void {
  for (const kernelName of kernelNames) {
    if (getKernel(kernelName, backendName)) continue;
    // every kernel gets its own inputs: they are registered under its own name
    const kernel = kernels[kernelName] as Kernel<unknown, Backend> | undefined;
    if (!kernel) continue;
    registerKernel({
      kernelName,
      backendName,
      kernelFunc: ({ inputs, backend, attrs }) =>
        kernel(attrs as unknown as MlaProblem, inputs, backend as Backend),
    });
  }
  planners.set(backendName, planner);
}

/** The current backend's planner. Throws if no kernels of ours are registered for it. */
export function currentPlanner(fn: string): Planner {
  return planners.get(getBackend()) ?? failMissing(fn);
}

/** Whether the backward of mlaAttention is one kernel on the current backend. */
export function isBackwardJoined(problem: MlaProblem): boolean {
  return planners.get(getBackend())?.isBackwardJoined?.(problem) ?? false;
}

/** Throws a clear error when the current backend lacks a kernel of ours. */
export function requireKernel(fn: string, kernel: KernelName): void {
  if (!getKernel(kernel, getBackend())) failMissing(fn);
}

/** Throws a clear error when the current backend lacks our kernels, or those do not know a cache's format. */
export function requireCacheFormat(fn: string, format: CacheFormat): void {
  const { cacheFormats } = currentPlanner(fn);
  if (cacheFormats.includes(format)) return;
  const supported = cacheFormats.map((name) => `'${name}'`).join(', ');
  fail(
    fn,
    `required: storage '${format}', supported on backend '${getBackend()}': ${supported}; missing: kernels for that format. storage 'float32' would work`,
  );
}

function failMissing(fn: string): never {
  const have = [...planners.keys()].sort().join(', ') || 'none';
  fail(
    fn,
    `required: kernels for backend '${getBackend()}', supported: ${have}; missing: import 'tfjs-mla/${getBackend()}' if there is such a door, or choose a supported backend with tf.setBackend`,
  );
}
