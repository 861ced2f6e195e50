/** Plans of calls that came before: a training step makes the same calls again, and planning one takes a tenth of a millisecond. */
import type { MlaProblem } from '../../src/core/problem.js';
import { tuningRevision } from '../../src/core/tuner.js';
import type { Capabilities } from './capabilities.js';

/** A program that never makes the same call twice keeps no more than this. */
const most = 512;

interface Memo {
  revision: number;
  plans: Map<string, unknown>;
}

const memos = new WeakMap<Capabilities, Memo>();

/** What `make` returns for a problem, made once a device for as long as the tuner learns nothing new. */
export function remembered<T>(name: string, problem: MlaProblem, device: Capabilities, make: () => T): T {
  let memo = memos.get(device);
  if (memo?.revision !== tuningRevision()) {
    memo = { revision: tuningRevision(), plans: new Map() };
    memos.set(device, memo);
  }
  const key = `${name} ${JSON.stringify(problem)}`;
  if (memo.plans.has(key)) return memo.plans.get(key) as T;
  if (memo.plans.size >= most) memo.plans.clear();
  const made = make();
  memo.plans.set(key, made);
  return made;
}
