/** The ops on the cases, and losses whose gradients the answers know. */
import * as tf from '@tensorflow/tfjs-core';
// registers the gradients of tfjs's own ops, which the losses are made of
import '@tensorflow/tfjs-layers';
import { mlaAttention, mlaDecode } from '../../src/index.js';
import '../../src/webgpu.js';
import type { Case } from '../cases.js';
import type { DataByName } from './inputs.js';
import { toTensor } from './onDevice.js';

export interface State {
  out: tf.Tensor4D;
  lse: tf.Tensor3D;
}

/** The inputs that have gradients, and the names of those, in the order of the op's arguments. */
export function differentiable(c: Case): { inputs: string[]; gradients: string[] } {
  if (c.op === 'mlaDecode') {
    return {
      inputs: ['qLatent', 'qRope', 'cKv', 'kRope'],
      gradients: ['dQLatent', 'dQRope', 'dCkv', 'dKRope'],
    };
  }
  const hasRope = c.dr > 0;
  return {
    inputs: ['q', 'k', 'v', ...(hasRope ? ['kRope'] : [])],
    gradients: ['dQ', 'dK', 'dV', ...(hasRope ? ['dKRope'] : [])],
  };
}

/** Runs the case's op on its differentiable inputs. */
export function runOp(c: Case, [first, second, third, fourth]: tf.Tensor[]): State {
  const { layout, causal, window, kvLengths } = c;
  const options = { layout, causal, window, kvLengths, returnLse: true } as const;
  if (c.op === 'mlaDecode') {
    const { softmaxScale } = c;
    return mlaDecode(
      first as tf.Tensor4D,
      second as tf.Tensor4D,
      third as tf.Tensor3D,
      fourth as tf.Tensor3D,
      {
        ...options,
        softmaxScale,
      },
    );
  }
  return mlaAttention(first as tf.Tensor4D, second as tf.Tensor4D, third as tf.Tensor4D, {
    ...options,
    softmaxScale: c.softmaxScale,
    qLengths: c.qLengths,
    kRope: fourth as tf.Tensor3D | undefined,
  });
}

/** sum(out · dOut) + sum(lse · dLse): its gradients are the answers'. Call it inside tf.tidy or a gradient function. */
export function lossOf(c: Case, data: DataByName, inputs: tf.Tensor[]): tf.Scalar {
  const { out, lse } = runOp(c, inputs);
  const ofOut = tf.sum(tf.mul(out, toTensor(data.dOut)));
  if (!c.hasDLse) return ofOut as tf.Scalar;
  return tf.add(ofOut, tf.sum(tf.mul(lse, toTensor(data.dLse))));
}
