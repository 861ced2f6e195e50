/** What the host calls (../compiled.ts): first how much memory a call needs, then the call. */
import { Kernel, place, runUnit, unitsOf } from './kernels';
import { Problem } from './problem';
import { endOfScratch } from './scratch';

export { LEFT, RIGHT } from './tile';

/** Bytes of the numbers that describe a call. */
export function problemBytes(): usize {
  return offsetof<Problem>();
}

/** Bytes of scratch that a thread needs. */
export function scratchBytes(kernel: Kernel, problem: Problem): usize {
  place(kernel, problem, 0);
  return endOfScratch();
}

/** Runs a kernel. The scratch may hold anything. */
export function run(kernel: Kernel, problem: Problem, scratch: usize): void {
  place(kernel, problem, scratch);
  for (let unit = unitsOf(kernel, problem) - 1; unit >= 0; unit--) runUnit(kernel, problem, unit);
}
