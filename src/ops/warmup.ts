import { currentPlanner } from '../core/register.js';
import { kernelsOf, problemOf } from './explain.js';
import type { Call } from './explain.js';

/**
 * Compiles what the described calls and their gradients need on the current backend, without running anything, so
 * that the first real call does not wait and a shader that does not compile becomes an exception.
 *
 * `onProgress(done, total)` is called after each kernel. Rejects with the compiler's message and line, and as the
 * ops themselves would for such shapes.
 */
export async function warmup(
  calls: Call[],
  onProgress?: (done: number, total: number) => void,
): Promise<void> {
  const planner = currentPlanner('warmup');
  const steps = calls.flatMap((call) => {
    const problem = problemOf('warmup', call);
    return kernelsOf(problem).map((kernel) => ({ plan: planner.plan(kernel, problem), problem }));
  });
  let done = 0;
  await Promise.all(
    steps.map(async ({ plan, problem }) => {
      await planner.compile(plan, problem);
      onProgress?.(++done, steps.length);
    }),
  );
}
