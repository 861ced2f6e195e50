import { engine, op } from '@tensorflow/tfjs-core';
import type { Tensor1D, Tensor3D, Tensor4D, TensorLike } from '@tensorflow/tfjs-core';
import { MLAAttention } from '../core/names.js';
import { attentionProblem } from '../core/problem.js';
import type { AttentionOptions } from '../core/problem.js';
import { requireKernel } from '../core/register.js';
import { absent, lengthsTensor, toTensor } from '../core/tensors.js';

export interface MlaAttentionOptions extends Omit<AttentionOptions, 'qLengths' | 'kvLengths'> {
  /** The rotary part of K, shared by all heads: [b, skv, dr], or [skv, b, dr] for 'sbhd'; never broadcast. */
  kRope?: Tensor3D | TensorLike;
  /** Rows that exist: numbers from 0 to sq (checked), or an int32 tensor [b] (clamped, never read back). */
  qLengths?: readonly number[] | Tensor1D;
  /** Keys that exist: numbers from 0 to skv (checked), or an int32 tensor [b] (clamped, never read back). */
  kvLengths?: readonly number[] | Tensor1D;
}

/** An attention with what is needed to merge it with others: see mergeStates. */
export interface AttentionState {
  /** Shaped like the queries, with the values' columns. */
  out: Tensor4D;
  /** [b, hq, sq], natural logarithm of the sum of exp(scores); -Infinity for a row that sees no key. */
  lse: Tensor3D;
}

function mlaAttention_(
  q: Tensor4D | TensorLike,
  k: Tensor4D | TensorLike,
  v: Tensor4D | TensorLike,
  options: MlaAttentionOptions = {},
): Tensor4D | AttentionState {
  const fn = 'mlaAttention';
  const inputs = {
    q: toTensor<Tensor4D>(q),
    k: toTensor<Tensor4D>(k),
    v: toTensor<Tensor4D>(v),
    kRope: options.kRope === undefined ? undefined : toTensor<Tensor3D>(options.kRope),
  };
  const problem = attentionProblem(fn, inputs, options);
  requireKernel(fn, MLAAttention);

  const [out, lse] = engine().runKernel(
    MLAAttention,
    {
      ...inputs,
      kRope: inputs.kRope ?? absent(),
      qLengths: lengthsTensor(options.qLengths),
      kvLengths: lengthsTensor(options.kvLengths),
    },
    problem,
  ) as unknown as [Tensor4D, Tensor3D];
  if (problem.returnLse) return { out, lse };
  lse.dispose();
  return out;
}

/** The call signatures of mlaAttention. */
export interface MlaAttention {
  (
    q: Tensor4D | TensorLike,
    k: Tensor4D | TensorLike,
    v: Tensor4D | TensorLike,
    options: MlaAttentionOptions & { returnLse: true },
  ): AttentionState;
  (
    q: Tensor4D | TensorLike,
    k: Tensor4D | TensorLike,
    v: Tensor4D | TensorLike,
    options?: MlaAttentionOptions & { returnLse?: false },
  ): Tensor4D;
}

/**
 * softmax(softmaxScale · q·[k | kRope]ᵀ + mask) · v, in O(s) memory, with exact gradients for q, k, v and kRope.
 *
 * With layout 'bshd' (default): q [b, sq, hq, dqk], k [b, skv, hkv, dqk] (or [b, skv, hkv, dqk-dr] beside kRope
 * [b, skv, dr]), v [b, skv, hkv, dv] → out [b, sq, hq, dv]. dqk and dv from 1 to 256; hq is a multiple of hkv, and
 * query head h reads key/value head floor(h · hkv / hq). 'bhsd' and 'sbhd' are read by strides, never copied.
 * With `returnLse` → {out, lse}, and the gradient of lse flows too.
 *
 * A row that sees no key gives out 0, lse -Infinity and gradients 0. Second derivatives are not available.
 *
 * Throws on bad rank, dtype (float32 only, no silent cast), shapes and options, before anything runs.
 *
 * Source: DeepSeek-V2, arXiv:2405.04434, section 2.1, eq. 9-19; tiling and backward after FlashAttention-2,
 * arXiv:2307.08691, algorithms 1 and 2 (without its atomics).
 */
export const mlaAttention = op({ mlaAttention_ }) as unknown as MlaAttention;
