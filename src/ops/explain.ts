import { cacheDtype } from '../core/cacheFormat.js';
import type { CacheFormat } from '../core/cacheFormat.js';
import {
  kernelNames,
  MLAAttention,
  MLAAttentionBackward,
  MLAAttentionDkv,
  MLAAttentionDq,
  MLADecode,
  MLADecodeDkv,
  MLADelta,
} from '../core/names.js';
import type { KernelName } from '../core/names.js';
import { fail } from '../core/errors.js';
import { attentionProblem, decodeProblem } from '../core/problem.js';
import type { AttentionOptions, DecodeOptions, Described, MlaProblem } from '../core/problem.js';
import { currentPlanner, isBackwardJoined, requireCacheFormat } from '../core/register.js';
import type { Plan } from '../core/register.js';

/** The shapes of a call of mlaAttention; kRope too is given as a shape. */
export interface AttentionShapes {
  q: number[];
  k: number[];
  v: number[];
  kRope?: number[];
}

/** The shapes of a call of mlaDecode. */
export interface DecodeShapes {
  qLatent: number[];
  qRope: number[];
  cKv: number[];
  kRope: number[];
  /** Default 'float32'. 'float16': a packed cache, whose tensors have half as many columns. */
  cacheFormat?: CacheFormat;
}

/** A call described by its shapes. */
export type Call =
  | { op: 'mlaAttention'; shapes: AttentionShapes; options?: AttentionOptions }
  | { op: 'mlaDecode'; shapes: DecodeShapes; options: DecodeOptions };

/** The kernels of a call: the forward first, then its gradients'. A packed cache has no gradient. */
export function kernelsOf(problem: MlaProblem): KernelName[] {
  const parts: KernelName[] = [MLADelta, MLAAttentionDq, MLAAttentionDkv];
  const isJoined = problem.op === 'mlaAttention' && isBackwardJoined(problem);
  const notRun = isJoined ? parts : [MLAAttentionBackward];
  return explainable(problem).filter((name) => !notRun.includes(name));
}

/** Those that can be asked for: the parts of what is joined, too. */
function explainable(problem: MlaProblem): KernelName[] {
  const { op, cacheFormat } = problem;
  const forward = op === 'mlaDecode' ? MLADecode : MLAAttention;
  const isThere = (name: KernelName): boolean =>
    (cacheFormat === 'float32' || name !== MLADecodeDkv) &&
    (name !== MLAAttentionBackward || isBackwardJoined(problem));
  return kernelNames.filter((name) => (name.startsWith(forward) && isThere(name)) || name === MLADelta);
}

/**
 * Which kernel, lane and tile a call would run with on the current backend, and for each one passed over, why. It is
 * the record that the dispatch itself uses. `kernel` names one of the gradient's kernels instead of the forward.
 *
 * Throws as the op itself would for these shapes, and when the current backend has no kernels of ours.
 */
export function explain(
  op: 'mlaAttention',
  shapes: AttentionShapes,
  options?: AttentionOptions,
  kernel?: KernelName,
): Plan;
export function explain(
  op: 'mlaDecode',
  shapes: DecodeShapes,
  options: DecodeOptions,
  kernel?: KernelName,
): Plan;
export function explain(
  op: Call['op'],
  shapes: AttentionShapes | DecodeShapes,
  options?: AttentionOptions | DecodeOptions,
  kernel: KernelName = op === 'mlaDecode' ? MLADecode : MLAAttention,
): Plan {
  const problem = problemOf('explain', { op, shapes, options } as Call);
  const kernels = explainable(problem);
  if (!kernels.includes(kernel)) {
    fail('explain', `kernel must be one of ${kernels.join(', ')} for ${op}, got ${kernel}`);
  }
  return currentPlanner('explain').plan(kernel, problem);
}

/** The problem record of a described call. */
export function problemOf(fn: string, call: Call): MlaProblem {
  const described = (shape: number[], dtype = 'float32'): Described => ({ shape, dtype });
  switch (call.op) {
    case 'mlaAttention': {
      const { q, k, v, kRope } = call.shapes;
      const inputs = {
        q: described(q),
        k: described(k),
        v: described(v),
        kRope: kRope && described(kRope),
      };
      return attentionProblem(fn, inputs, call.options ?? {});
    }
    case 'mlaDecode': {
      const { qLatent, qRope, cKv, kRope, cacheFormat = 'float32' } = call.shapes;
      requireCacheFormat(fn, cacheFormat);
      const inputs = {
        qLatent: described(qLatent),
        qRope: described(qRope),
        cKv: described(cKv, cacheDtype(cacheFormat)),
        kRope: described(kRope, cacheDtype(cacheFormat)),
      };
      return decodeProblem(fn, inputs, call.options);
    }
    default:
      fail(fn, `op must be 'mlaAttention' or 'mlaDecode', got ${String((call as { op: unknown }).op)}`);
  }
}
