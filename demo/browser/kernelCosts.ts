/** What a computation ran, kernel by kernel, and how long each took. */
import { profile } from '@tensorflow/tfjs-core';
import type { KernelCost } from './messages.js';

/** What tfjs calls a function with a gradient of its own. */
const customGradient = 'unnamed scope';

/** Dearest kernels first. Slower than the computation alone: every kernel is timed by itself. */
export async function kernelCosts(run: () => Promise<void>): Promise<KernelCost[]> {
  let failure: unknown;
  const { kernels } = await profile(async () => {
    // profile() would never end if this threw
    await run().catch((error: unknown) => (failure = error));
    return []; // it asks for tensors
  });
  if (failure) throw failure as Error;
  const costs = new Map<string, KernelCost>();
  for (const { name, kernelTimeMs } of kernels) {
    if (name === customGradient) continue; // its kernels are in the list themselves
    const cost = costs.get(name) ?? { kernel: name, calls: 0, timeMs: 0 };
    cost.calls++;
    cost.timeMs += typeof kernelTimeMs === 'number' ? kernelTimeMs : 0;
    costs.set(name, cost);
  }
  return [...costs.values()].sort((a, b) => b.timeMs - a.timeMs);
}
