import {
  add,
  exp,
  greater,
  log,
  maximum,
  mul,
  neg,
  op,
  reshape,
  sub,
  sum,
  transpose,
  where,
  zerosLike,
} from '@tensorflow/tfjs-core';
import type { Tensor, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import { fail, shapeText } from '../core/errors.js';
import { dimsOf, layouts, statOrder, statOrderInverse } from '../core/layout.js';
import type { Layout } from '../core/layout.js';
import { withGradient } from '../core/tensors.js';
import type { AttentionState } from './mlaAttention.js';

/** Below every logarithm that float32 data can give: lse is -Infinity, the row saw no key. */
const leastLse = -3e38;

function mergeStates_(
  states: AttentionState[],
  { layout = 'bshd' }: { layout?: Layout } = {},
): AttentionState {
  checkStates(states, layout);
  return states.reduce((merged, state) => mergeTwo(merged, state, layout));
}

/**
 * Merges partial attentions over disjoint sets of keys into the attention over all of them, exactly:
 * [{out [b, s, h, d] (or as `layout` says), lse [b, h, s]}, …] → {out, lse}.
 *
 * Split-KV, chunked prefill and prefix sharing are built on it. Composed of tfjs ops, so it runs on every backend;
 * gradients of out and lse flow to every state. A row that no state has seen stays out 0, lse -Infinity, gradient 0.
 *
 * Throws when there is no state, or a state's shapes or dtypes do not fit the first one's.
 *
 * Source: FlashInfer, arXiv:2501.01005, section 2.2 (attention composition).
 */
export const mergeStates = op({ mergeStates_ });

function checkStates(states: AttentionState[], layout: Layout): void {
  const fn = 'mergeStates';
  if (!Array.isArray(states) || states.length === 0) {
    fail(fn, `states must be at least one {out, lse}, got ${Array.isArray(states) ? '[]' : String(states)}`);
  }
  if (!layouts.includes(layout)) {
    fail(fn, `layout must be one of ${layouts.join(', ')}, got ${String(layout)}`);
  }
  states.forEach(({ out, lse }, index) => {
    const name = `states[${index}]`;
    if (out.isDisposed || lse.isDisposed) fail(fn, `${name} is disposed`);
    if (out.shape.length !== 4) {
      fail(
        fn,
        `${name}.out must be of rank 4, got rank ${(out.shape as number[]).length} ${shapeText(out.shape)}`,
      );
    }
    for (const [part, tensor] of Object.entries({ out, lse })) {
      if (tensor.dtype !== 'float32') fail(fn, `${name}.${part} must be float32, got ${tensor.dtype}`);
    }
    const expected = shapeText(states[0].out.shape);
    if (shapeText(out.shape) !== expected) {
      fail(fn, `${name}.out must be ${expected} like states[0].out, got ${shapeText(out.shape)}`);
    }
    const { b, h, s } = dimsOf(out.shape, layout);
    if (shapeText(lse.shape) !== shapeText([b, h, s])) {
      fail(
        fn,
        `${name}.lse must be [b=${b}, h=${h}, s=${s}] for layout '${layout}', got ${shapeText(lse.shape)}`,
      );
    }
  });
}

/** Two outputs, but a composed op has one: lse first, then out with the weights recomputed. */
function mergeTwo(a: AttentionState, b: AttentionState, layout: Layout): AttentionState {
  const lse = withGradient(
    [a.lse, b.lse],
    (lseA, lseB) => {
      const merged = logAddExp(lseA, lseB);
      return { value: merged, saved: [weight(lseA, merged), weight(lseB, merged)] };
    },
    (dLse, [weightA, weightB]) => [mul(dLse, weightA), mul(dLse, weightB)],
  ) as Tensor3D;

  const out = withGradient(
    [a.out, a.lse, b.out, b.lse],
    (outA, lseA, outB, lseB) => {
      const merged = logAddExp(lseA, lseB);
      const weightA = perRow(weight(lseA, merged), layout);
      const weightB = perRow(weight(lseB, merged), layout);
      return {
        value: add(mul(weightA, outA), mul(weightB, outB)),
        saved: [outA, outB, weightA, weightB],
      };
    },
    (dOut, [outA, outB, weightA, weightB]) => {
      // d weightA = weightA·weightB·(outA - outB)·dOut, and d weightB is its negative: the weights add up to one
      const inner = sum(mul(dOut, sub(outA, outB)), -1, true);
      const dLseA = perHead(mul(mul(weightA, weightB), inner), layout);
      return [mul(weightA, dOut), dLseA, mul(weightB, dOut), neg(dLseA)];
    },
  ) as Tensor4D;
  return { out, lse };
}

function logAddExp(a: Tensor, b: Tensor): Tensor {
  const max = maximum(a, b);
  const isSeen = greater(max, leastLse);
  // Infinity - Infinity would be NaN: rows that nobody saw are computed on zeros and put back at the end
  const shift = where(isSeen, max, zerosLike(max));
  const total = add(exp(sub(a, shift)), exp(sub(b, shift)));
  const safeTotal = where(isSeen, total, add(zerosLike(total), 1));
  return where(isSeen, add(shift, log(safeTotal)), max);
}

/** exp(lse - merged): the share of a state in the merged row; 0 where nobody saw a key. */
function weight(lse: Tensor, merged: Tensor): Tensor {
  const isSeen = greater(merged, leastLse);
  const share = exp(sub(lse, where(isSeen, merged, zerosLike(merged))));
  return where(isSeen, share, zerosLike(share));
}

/** [b, h, s] → a column beside out: [b, s, h, 1] or as the layout says. */
function perRow(stat: Tensor, layout: Layout): Tensor {
  const moved = transpose(stat, statOrder(layout));
  return reshape(moved, [...moved.shape, 1]);
}

/** The inverse of perRow. */
function perHead(column: Tensor, layout: Layout): Tensor {
  return transpose(reshape(column, column.shape.slice(0, 3)), statOrderInverse(layout));
}
