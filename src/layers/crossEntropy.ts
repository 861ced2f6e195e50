import { exp, log, max, mean, mul, oneHot, reciprocal, reshape, sub, sum, tidy } from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { fail, shapeText } from '../core/errors.js';
import { MLACrossEntropy, MLACrossEntropyBackward, hasRowKernel, runRowKernel } from '../core/rowKernels.js';
import { withGradient } from '../core/tensors.js';
import { asColumns, asMatrix, scaleRows } from './rowwise.js';

/**
 * Mean over all positions of −log softmax(logits)[label], natural logarithm: a scalar, with its gradient.
 *
 * logits [..., vocabulary] float32, labels [...] int32 of the same leading shape.
 */
export function crossEntropy(logits: Tensor, labels: Tensor): Scalar {
  if (logits.size / logits.shape[logits.rank - 1] !== labels.size || labels.dtype !== 'int32') {
    fail(
      'crossEntropy',
      `labels must be int32 ${shapeText(logits.shape.slice(0, -1))}, got ${labels.dtype} ${shapeText(labels.shape)}`,
    );
  }
  return tidy(() => {
    if (logits.size > 0 && hasRowKernel(MLACrossEntropy)) return fusedCrossEntropy(logits, labels);
    return composedCrossEntropy(asMatrix(logits), reshape(labels, [labels.size]));
  });
}

function fusedCrossEntropy(all: Tensor, ids: Tensor): Scalar {
  return withGradient(
    [all],
    (logits) => ({
      value: runRowKernel(MLACrossEntropy, { logits, labels: ids }, {})[0],
      saved: [logits, ids],
    }),
    (dLoss, [logits, labels]) => runRowKernel(MLACrossEntropyBackward, { dLoss, logits, labels }, {}),
  ) as Scalar;
}

function composedCrossEntropy(rows: Tensor2D, flat: Tensor1D): Scalar {
  return withGradient(
    [rows],
    (logits) => ({ value: meanLoss(logits as Tensor2D, flat), saved: [logits, flat] }),
    (dLoss, [logits, ids]) => [
      mul(rowGradients(logits as Tensor2D, ids as Tensor1D), mul(dLoss, 1 / ids.size)),
    ],
  ) as Scalar;
}

function meanLoss(logits: Tensor2D, labels: Tensor1D): Tensor {
  const shifted = belowGreatest(logits);
  const ofLabel = sum(mul(shifted, oneHot(labels, logits.shape[1])), 1);
  return mean(sub(log(sum(exp(shifted), 1)), ofLabel));
}

/** softmax − one-hot; the softmax is computed again, which keeps no second matrix until the backward pass. */
function rowGradients(logits: Tensor2D, labels: Tensor1D): Tensor2D {
  const weights = exp(belowGreatest(logits));
  const probabilities = scaleRows(weights, reciprocal(sum<Tensor2D>(weights, 1, true)));
  return sub(probabilities, oneHot(labels, logits.shape[1]));
}

/** Logits less the greatest of their row, so that exp cannot overflow. */
function belowGreatest(logits: Tensor2D): Tensor2D {
  return sub(logits, asColumns(max<Tensor2D>(logits, 1, true), logits.shape[1]));
}
