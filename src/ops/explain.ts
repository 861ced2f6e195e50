import { kernelNames, MLAAttention, MLADecode, MLADelta } from '../core/names.js';
import type { KernelName } from '../core/names.js';
import { fail } from '../core/errors.js';
import { attentionProblem, decodeProblem } from '../core/problem.js';
import type { AttentionOptions, DecodeOptions, Described, MlaProblem } from '../core/problem.js';
import { currentPlanner } from '../core/register.js';
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
}

/** A call described by its shapes. */
export type Call =
  | { op: 'mlaAttention'; shapes: AttentionShapes; options?: Omit<AttentionOptions, 'kRope'> }
  | { op: 'mlaDecode'; shapes: DecodeShapes; options: DecodeOptions };

/** The kernels of a call's op: the forward first, then its gradient's. */
export function kernelsOf(op: Call['op']): KernelName[] {
  const forward = op === 'mlaDecode' ? MLADecode : MLAAttention;
  return kernelNames.filter((name) => name.startsWith(forward) || name === MLADelta);
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
  options?: Omit<AttentionOptions, 'kRope'>,
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
  options?: Omit<AttentionOptions, 'kRope'> | DecodeOptions,
  kernel: KernelName = op === 'mlaDecode' ? MLADecode : MLAAttention,
): Plan {
  const problem = problemOf('explain', { op, shapes, options } as Call);
  if (!kernelsOf(op).includes(kernel)) {
    fail('explain', `kernel must be one of ${kernelsOf(op).join(', ')} for ${op}, got ${kernel}`);
  }
  return currentPlanner('explain').plan(kernel, problem);
}

/** The problem record of a described call. */
export function problemOf(fn: string, call: Call): MlaProblem {
  const described = (shape: number[]): Described => ({ shape, dtype: 'float32' });
  switch (call.op) {
    case 'mlaAttention': {
      const { q, k, v, kRope } = call.shapes;
      const options = { ...call.options, kRope: kRope && described(kRope) };
      return attentionProblem(fn, { q: described(q), k: described(k), v: described(v) }, options);
    }
    case 'mlaDecode': {
      const { qLatent, qRope, cKv, kRope } = call.shapes;
      const inputs = {
        qLatent: described(qLatent),
        qRope: described(qRope),
        cKv: described(cKv),
        kRope: described(kRope),
      };
      return decodeProblem(fn, inputs, call.options);
    }
    default:
      fail(fn, `op must be 'mlaAttention' or 'mlaDecode', got ${String((call as { op: unknown }).op)}`);
  }
}
