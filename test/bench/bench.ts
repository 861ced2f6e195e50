import * as tf from '@tensorflow/tfjs-core';
import type { Plan } from '../../src/core/register.js';
import type { SteadyClock } from './clock.js';
import { normals } from './inputs.js';
import type { PeerProgram } from './peers.js';

/** What one run of the bench measures with. */
export interface Bench {
  isSoftware: boolean;
  clock: SteadyClock;
  /** tfjs's composed ops are measured too */
  hasTfjs: boolean;
  /** peers in processes of their own */
  programs: PeerProgram[];
}

export const tfjsPeer = 'tfjs composed';

export function randomTensor<R extends tf.Rank>(shape: tf.ShapeMap[R]): tf.Tensor<R> {
  return tf.tensor(normals(tf.util.sizeFromShape(shape)), shape);
}

/** Every lane and precision that the plans name, such as 'T1 float32'. */
export function laneOf(plans: Plan[]): string {
  return [...new Set(plans.map(({ lane, computePrecision }) => `${lane} ${computePrecision}`))].join(', ');
}
