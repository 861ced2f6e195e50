import { getBackend, getKernel, op } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor3D, Tensor4D, TensorLike } from '@tensorflow/tfjs-core';
import { fail, shapeText } from '../core/errors.js';
import { MLAAttention } from '../core/names.js';
import { attentionProblem } from '../core/problem.js';
import { toTensor } from '../core/tensors.js';
import { composedAttention } from './composedAttention.js';
import { mlaAttention } from './mlaAttention.js';
import type { MlaAttentionOptions } from './mlaAttention.js';

export interface DotProductAttentionOptions extends Omit<MlaAttentionOptions, 'returnLse'> {
  /** bool, broadcastable to [b, hq, sq, skv], true = keep; on top of causal, window and lengths. */
  mask?: Tensor | TensorLike;
  /** float32, broadcastable to [b, hq, sq, skv], added to the scaled scores; its gradient flows. */
  bias?: Tensor | TensorLike;
  /** Share of the probabilities that is dropped, from 0 to 1 (excluded); the rest is scaled up. Default 0. */
  dropout?: number;
  /** Seed of the dropout; without one it differs from call to call. */
  seed?: number;
  /** 'auto': our kernels when they can do all that is asked, else composed tfjs ops. Default 'auto'. */
  implementation?: 'auto' | 'fused' | 'composed';
}

const implementations = ['auto', 'fused', 'composed'];

function dotProductAttention_(
  q: Tensor4D | TensorLike,
  k: Tensor4D | TensorLike,
  v: Tensor4D | TensorLike,
  options: DotProductAttentionOptions = {},
): Tensor4D {
  const fn = 'dotProductAttention';
  const { mask, bias, dropout = 0, seed, implementation = 'auto', ...attentionOptions } = options;
  const inputs = { q: toTensor<Tensor4D>(q), k: toTensor<Tensor4D>(k), v: toTensor<Tensor4D>(v) };
  const kRope = options.kRope === undefined ? undefined : toTensor<Tensor3D>(options.kRope);
  const problem = attentionProblem(fn, { ...inputs, kRope }, attentionOptions);
  if (!implementations.includes(implementation)) {
    fail(fn, `implementation must be one of ${implementations.join(', ')}, got ${String(implementation)}`);
  }
  if (!(dropout >= 0 && dropout < 1))
    fail(fn, `dropout must be from 0 to 1 (excluded), got ${String(dropout)}`);
  const scoresShape = [problem.b, problem.hq, problem.sq, problem.skv];
  const extras = {
    mask: checkBroadcastable(fn, 'mask', mask, 'bool', scoresShape),
    bias: checkBroadcastable(fn, 'bias', bias, 'float32', scoresShape),
    dropout,
    seed,
  };

  const missing = missingFeatures(extras);
  if (implementation === 'fused' && missing.length > 0) {
    fail(
      fn,
      `required: ${missing.join(', ')}; supported: causal, window, lengths, kRope, grouped heads; missing: ${missing.join(', ')}. implementation 'auto' or 'composed' would work`,
    );
  }
  if (implementation !== 'composed' && missing.length === 0) {
    return mlaAttention(inputs.q, inputs.k, inputs.v, { ...attentionOptions, kRope, returnLse: false });
  }
  const { qLengths, kvLengths } = attentionOptions;
  return composedAttention(problem, { ...inputs, kRope, qLengths, kvLengths, ...extras });
}

/**
 * The general entry: scaled dot-product attention with everything mlaAttention offers, and mask, bias and dropout.
 *
 * Shapes as in mlaAttention. Runs our kernels when they support all that is asked for, and otherwise composed tfjs
 * ops, in O(sq · skv) memory, with the same result and a gradient of their own (q, k, v, kRope, bias).
 * `implementation: 'fused'` throws instead, and says what is required, supported and missing.
 *
 * Throws on bad rank, dtype, shapes and options, before anything runs.
 *
 * Source: Vaswani et al., arXiv:1706.03762, section 3.2.1.
 */
export const dotProductAttention = op({ dotProductAttention_ });

function missingFeatures(extras: { mask?: Tensor; bias?: Tensor; dropout: number }): string[] {
  const missing: string[] = [];
  if (extras.mask) missing.push('mask');
  if (extras.bias) missing.push('bias');
  if (extras.dropout > 0) missing.push('dropout');
  if (!getKernel(MLAAttention, getBackend())) missing.push(`kernels for backend '${getBackend()}'`);
  return missing;
}

function checkBroadcastable(
  fn: string,
  name: string,
  value: Tensor | TensorLike | undefined,
  dtype: 'bool' | 'float32',
  shape: number[],
): Tensor | undefined {
  if (value === undefined) return undefined;
  const tensor = toTensor<Tensor>(value);
  if (tensor.dtype !== dtype) fail(fn, `${name} must be ${dtype}, got ${tensor.dtype}`);
  const got: number[] = tensor.shape;
  const isFitting =
    got.length <= 4 && got.every((dim, axis) => dim === 1 || dim === shape[axis + 4 - got.length]);
  if (!isFitting) {
    const [b, hq, sq, skv] = shape;
    fail(
      fn,
      `${name} must be broadcastable to [b=${b}, hq=${hq}, sq=${sq}, skv=${skv}], got ${shapeText(got)}`,
    );
  }
  return tensor;
}
