/** The kernels as pieces of work. Those of MLADecode are the same as those of MLAAttention. */
import { attendTile, placeForward } from './mlaAttention';
import { dkvOfTile, keyTiles, placeDkv } from './mlaAttentionDkv';
import { dqOfTile, placeDq } from './mlaAttentionDq';
import { deltaOfHead, deltaUnits } from './mlaDelta';
import { placeUnpacked } from './operands';
import { Problem } from './problem';
import { queryTiles } from './queryTile';
import { beginScratch } from './scratch';

export const enum Kernel {
  forward,
  delta,
  dq,
  dkv,
}

/** Pieces of work that do not depend on one another: any thread may do any of them, with the same bits. */
export function unitsOf(kernel: Kernel, problem: Problem): i32 {
  switch (kernel) {
    case Kernel.delta:
      return deltaUnits(problem);
    case Kernel.dkv:
      return keyTiles(problem);
    default:
      return queryTiles(problem);
  }
}

/** Cuts up a thread's scratch, before its first unit of a call. */
export function place(kernel: Kernel, problem: Problem, scratch: usize): void {
  beginScratch(scratch);
  placeUnpacked(problem);
  switch (kernel) {
    case Kernel.forward:
      return placeForward(problem);
    case Kernel.dq:
      return placeDq(problem);
    case Kernel.dkv:
      return placeDkv(problem);
  }
}

export function runUnit(kernel: Kernel, problem: Problem, unit: i32): void {
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
