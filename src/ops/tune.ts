import { getBackend } from '@tensorflow/tfjs-core';
import { fail } from '../core/errors.js';
import { MLAAttentionBackward, MLAAttentionDkv, MLAAttentionDq, kernelNames } from '../core/names.js';
import type { KernelName } from '../core/names.js';
import { currentPlanner } from '../core/register.js';
import type { TuneOptions, TuneRow } from '../core/register.js';
import { kernelsOf, problemOf } from './explain.js';
import type { Call } from './explain.js';

export interface TuneCallsOptions extends TuneOptions {
  /** Only these kernels; default: those of the calls and of their gradients. */
  kernels?: KernelName[];
}

/**
 * Times all that the described calls and their gradients can run with on this device, and remembers the fastest: from
 * then on the calls run with it, and so do all others whose lengths and counts round to the same powers of two;
 * explain() says so. Takes about a second a kernel, without blocking. Findings last: in Node in
 * `$XDG_CACHE_HOME/tfjs-mla/tuning.json`, in a page in localStorage.
 *
 * Tensors of these shapes are made on the device, random and full, and disposed. `onProgress` is told of each candidate;
 * `signal` ends it after the one that is being timed, and what was measured is remembered. Resolves with a line for
 * each candidate that was timed, in milliseconds of GPU time a call.
 *
 * Rejects as the ops themselves would for such shapes, when the current backend has nothing to choose from, when the
 * device cannot hold the tensors, and with the compiler's message when a shader does not compile.
 */
export async function tune(
  calls: Call[],
  { onProgress, signal, kernels }: TuneCallsOptions = {},
): Promise<TuneRow[]> {
  const fn = 'tune';
  const planner = currentPlanner(fn);
  if (!planner.tune) {
    fail(fn, `required: a backend with candidates to choose from, supported: webgpu, got '${getBackend()}'`);
  }
  for (const kernel of kernels ?? []) {
    if (!kernelNames.includes(kernel)) {
      fail(fn, `kernels must be some of ${kernelNames.join(', ')}, got ${String(kernel)}`);
    }
  }
  const jobs = calls.flatMap((call) => {
    const problem = problemOf(fn, call);
    // what joins kernels has no choice of its own where it runs them one behind the other
    const all = kernelsOf(problem).flatMap((kernel): KernelName[] =>
      kernel === MLAAttentionBackward ? [MLAAttentionDq, MLAAttentionDkv] : [kernel],
    );
    const wanted = all.filter((kernel) => kernels?.includes(kernel) ?? true);
    return wanted.map((kernel) => ({ kernel, problem }));
  });
  return planner.tune(jobs, { onProgress, signal });
}
