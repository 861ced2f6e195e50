/** Run by coreAlone.test.ts as a process of its own; prints what it found as JSON. */
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
import { LatentCache, dotProductAttention, mergeStates, mlaAttention, mlaDecode } from '../../src/index.js';

/** The derivative along a direction, from the gradients and as a quotient of differences. */
export interface Slope {
  slope: number;
  quotient: number;
}

export interface CoreAloneReport {
  gradientsOfTfjs: string[];
  backends: string[];
  slopes: Record<'mlaAttention' | 'mlaDecode' | 'mergeStates' | 'dotProductAttention', Slope>;
  cacheLengths: number[];
  tensorsLeft: number;
}

type Forward = (...inputs: tf.Tensor[]) => tf.Tensor;

function random(shape: number[], seed: number): tf.Tensor {
  return tf.randomNormal(shape, 0, 1, 'float32', seed);
}

/** tf.grads with a dy needs no gradient but the op's own. */
function slopeOf(forward: Forward, inputs: tf.Tensor[]): Slope {
  const directions = inputs.map(({ shape }, index) => random(shape, 100 + index));
  const h = 1e-2;
  const [up, down] = [h, -h].map((step) =>
    tf.tidy(() => forward(...inputs.map((x, index) => tf.add(x, tf.mul(directions[index], step))))),
  );
  const dOut = random(up.shape, 200);
  const numberOf = (x: tf.Tensor): number => x.dataSync()[0];
  const quotient = numberOf(tf.tidy(() => tf.sum(tf.mul(dOut, tf.div(tf.sub(up, down), 2 * h)))));
  const gradients = tf.grads(forward)(inputs, dOut);
  const slope = gradients
    .map((gradient, index) => numberOf(tf.tidy(() => tf.sum(tf.mul(gradient, directions[index])))))
    .reduce((sum, part) => sum + part, 0);
  return { slope, quotient };
}

await tf.setBackend('cpu');

const slopes = {
  mlaAttention: slopeOf(
    (q, k, v, kRope) =>
      mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {
        causal: true,
        kRope: kRope as tf.Tensor3D,
      }),
    [random([1, 5, 2, 8], 1), random([1, 7, 2, 6], 2), random([1, 7, 2, 4], 3), random([1, 7, 2], 4)],
  ),
  mlaDecode: slopeOf(
    (qLatent, qRope, cKv, kRope) =>
      mlaDecode(qLatent as tf.Tensor4D, qRope as tf.Tensor4D, cKv as tf.Tensor3D, kRope as tf.Tensor3D, {
        softmaxScale: 0.3,
      }),
    [random([1, 2, 3, 8], 5), random([1, 2, 3, 4], 6), random([1, 6, 8], 7), random([1, 6, 4], 8)],
  ),
  mergeStates: slopeOf(
    (outA, lseA, outB, lseB) =>
      mergeStates([
        { out: outA as tf.Tensor4D, lse: lseA as tf.Tensor3D },
        { out: outB as tf.Tensor4D, lse: lseB as tf.Tensor3D },
      ]).out,
    [random([1, 3, 2, 4], 9), random([1, 2, 3], 10), random([1, 3, 2, 4], 11), random([1, 2, 3], 12)],
  ),
  dotProductAttention: slopeOf(
    (q, k, v, bias) =>
      dotProductAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, { bias, causal: true }),
    [random([1, 5, 2, 8], 13), random([1, 7, 2, 8], 14), random([1, 7, 2, 4], 15), random([2, 1, 7], 16)],
  ),
};

const { numTensors } = tf.memory();
const cache = new LatentCache({ batch: 1, capacity: 4, latentRank: 8, ropeDim: 4 });
tf.tidy(() => cache.append(tf.ones([1, 3, 8]), tf.ones([1, 3, 4])));
const { lengths } = cache;
cache.dispose();

const report: CoreAloneReport = {
  gradientsOfTfjs: ['MatMul', 'BatchMatMul', 'Add', 'Multiply', 'Sum', 'Softmax'].filter((name) =>
    tf.getGradient(name),
  ),
  backends: Object.keys(tf.engine().registryFactory),
  slopes,
  cacheLengths: lengths,
  tensorsLeft: tf.memory().numTensors - numTensors,
};
// tfjs greets newcomers on the console's other stream
process.stdout.write(JSON.stringify(report));
