/** What the host calls (../compiled.ts): first how much memory a call needs, then the call. */
import { attendTile, placeForward } from './mlaAttention';
import { dkvOfTile, keyTiles, placeDkv } from './mlaAttentionDkv';
import { dqOfTile, placeDq } from './mlaAttentionDq';
import { deltaOfHead, deltaUnits } from './mlaDelta';
import { Problem } from './problem';
import { queryTiles } from './queryTile';
import { beginScratch, endOfScratch } from './scratch';

/** The kernels of MLAAttention; those of MLADecode are the same. */
const enum Kernel {
  forward,
  delta,
  dq,
  dkv,
}

/** Bytes of the numbers that describe a call. */
export function problemBytes(): usize {
  return offsetof<Problem>();
}

/** Bytes of scratch that a thread needs. */
export function scratchBytes(kernel: Kernel, problem: Problem): usize {
  beginScratch(0);
  place(kernel, problem);
  return endOfScratch();
}

/** Runs a kernel. The scratch may hold anything. */
export function run(kernel: Kernel, problem: Problem, scratch: usize): void {
  beginScratch(scratch);
  place(kernel, problem);
  for (let unit = units(kernel, problem) - 1; unit >= 0; unit--) runUnit(kernel, problem, unit);
}

function place(kernel: Kernel, problem: Problem): void {
  switch (kernel) {
    case Kernel.forward:
      return placeForward(problem);
    case Kernel.dq:
      return placeDq(problem);
    case Kernel.dkv:
      return placeDkv(problem);
  }
}

/** Pieces of work that do not depend on one another. */
function units(kernel: Kernel, problem: Problem): i32 {
  switch (kernel) {
    case Kernel.delta:
      return deltaUnits(problem);
    case Kernel.dkv:
      return keyTiles(problem);
    default:
      return queryTiles(problem);
  }
}

function runUnit(kernel: Kernel, problem: Problem, unit: i32): void {
  switch (kernel) {
    case Kernel.forward:
      return attendTile(problem, unit);
    case Kernel.delta:
      return deltaOfHead(problem, unit);
    case Kernel.dq:
      return dqOfTile(problem, unit);
    case Kernel.dkv:
      return dkvOfTile(problem, unit);
  }
}
