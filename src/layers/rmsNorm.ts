import { add, mul, reshape, rsqrt, serialization, square, sub, sum, tidy } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { initializers, layers } from '@tensorflow/tfjs-layers';
import type { LayerVariable, Shape } from '@tensorflow/tfjs-layers';
import { withGradient } from '../core/tensors.js';
import { first, firstShape, lastAxis } from './layerTypes.js';
import type { LayerArgs } from './layerTypes.js';
import { asMatrix, scaleRows, sumRows } from './rowwise.js';

/**
 * x / sqrt(mean(x²) + eps) · gain over the last axis. gain is [d], x [..., d].
 *
 * Source: Zhang and Sennrich, arXiv:1910.07467, eq. 4; eps inside the root as in Hugging Face's DeepseekV3RMSNorm.
 */
export function rmsNorm<T extends Tensor>(x: T, gain: Tensor1D, eps: number): T {
  return tidy(() => reshape(rmsNormRows(asMatrix(x), gain, eps), x.shape) as T);
}

function rmsNormRows(rows: Tensor2D, gain: Tensor1D, eps: number): Tensor2D {
  // One gradient in closed form: the composed one broadcasts and reduces five more times.
  return withGradient(
    [rows, gain],
    (x, g) => ({ value: mul(normalise(x as Tensor2D, eps).normalised, g), saved: [x, g] }),
    (dy, [x, g]) => rmsNormGradient(dy, x as Tensor2D, g as Tensor1D, eps),
  ) as Tensor2D;
}

function normalise(x: Tensor2D, eps: number): { normalised: Tensor2D; inverseRms: Tensor2D } {
  const inverseRms = rsqrt(add<Tensor2D>(meanAlongRow(square(x)), eps));
  return { normalised: scaleRows(x, inverseRms), inverseRms };
}

/** The norm itself is computed again: less to keep until the backward pass than its results. */
function rmsNormGradient(dy: Tensor, x: Tensor2D, gain: Tensor1D, eps: number): Tensor[] {
  const { normalised, inverseRms } = normalise(x, eps);
  const dNormalised = mul<Tensor2D>(dy, gain);
  const alongRow = meanAlongRow(mul(dNormalised, normalised));
  const dx = scaleRows(sub(dNormalised, scaleRows(normalised, alongRow)), inverseRms);
  return [dx, sumRows(mul(dy, normalised))];
}

/** [n, d] → [n, 1]. tf.mean would divide every element first on cpu. */
function meanAlongRow(matrix: Tensor): Tensor2D {
  const d = (matrix as Tensor2D).shape[1];
  return mul(sum(matrix, 1, true), 1 / d);
}

export interface RMSNormArgs extends LayerArgs {
  /** Added to the mean square. Default 1e-6. */
  rmsNormEps?: number;
}

/** Root-mean-square norm over the last axis with a learned gain: [..., d] → [..., d]. See rmsNorm. */
export class RMSNorm extends layers.Layer {
  static get className(): string {
    return 'RMSNorm';
  }

  readonly rmsNormEps: number;
  gain!: LayerVariable;

  constructor(args: RMSNormArgs = {}) {
    super(args);
    this.rmsNormEps = args.rmsNormEps ?? 1e-6;
    this.supportsMasking = true;
  }

  override build(inputShape: Shape | Shape[]): void {
    const d = lastAxis('RMSNorm', inputShape);
    this.gain = this.addWeight('gain', [d], 'float32', initializers.ones());
    super.build(inputShape);
  }

  override computeOutputShape(inputShape: Shape | Shape[]): Shape {
    return firstShape(inputShape);
  }

  override call(inputs: Tensor | Tensor[]): Tensor {
    return rmsNorm(first(inputs), this.gain.read() as Tensor1D, this.rmsNormEps);
  }

  override getConfig(): serialization.ConfigDict {
    return { ...super.getConfig(), rmsNormEps: this.rmsNormEps };
  }
}
serialization.registerClass(RMSNorm);
