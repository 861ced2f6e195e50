import { add, mul, rsqrt, serialization, sub, sum as sumOf, tidy } from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Tensor1D, Tensor2D } from '@tensorflow/tfjs-core';
import { initializers, layers } from '@tensorflow/tfjs-layers';
import type { LayerVariable, Shape } from '@tensorflow/tfjs-layers';
import { MLARMSNorm, MLARMSNormBackward, hasRowKernel, runRowKernel } from '../core/rowKernels.js';
import { absent, constant, withGradient } from '../core/tensors.js';
import { firstShape, lastAxis } from './layerTypes.js';
import type { LayerArgs } from './layerTypes.js';
import { asMatrix, inShape, plus, scaleRows, sumRows } from './rowwise.js';

/**
 * x / sqrt(mean(x²) + eps) · gain over the last axis. gain is [d], x [..., d]. An addend, shaped like x, is added to x first.
 *
 * Source: Zhang and Sennrich, arXiv:1910.07467, eq. 4; eps inside the root as in Hugging Face's DeepseekV3RMSNorm.
 */
export function rmsNorm<T extends Tensor>(x: T, gain: Tensor1D, eps: number, addend?: T): T {
  return tidy(() => {
    const [rows, added] = [asMatrix(x), addend && asMatrix(addend)];
    if (hasRowKernel(MLARMSNorm)) return inShape(fusedNorm(rows, gain, eps, added), x.shape) as T;
    return inShape(composedNorm(added ? plus(rows, added) : rows, gain, eps), x.shape) as T;
  });
}

/** rmsNorm of rows, and the sum that it is of, which is x itself where there is no addend. */
export function addRmsNorm(
  x: Tensor2D,
  gain: Tensor1D,
  eps: number,
  addend?: Tensor2D,
): { normed: Tensor2D; sum: Tensor2D } {
  return tidy(() => {
    if (hasRowKernel(MLARMSNorm)) {
      const results = runRowKernel(MLARMSNorm, { x, gain, addend: addend ?? absent() }, { eps });
      const [normed, sum] = results as Tensor2D[];
      return { normed, sum };
    }
    const sum = addend ? plus(x, addend) : x;
    return { normed: composedNorm(sum, gain, eps), sum };
  });
}

/** With a gradient of its own: the registered one wants a dSum, for which tfjs makes zeros if no one has used the sum. */
function fusedNorm(rows: Tensor2D, gain: Tensor1D, eps: number, addend?: Tensor2D): Tensor2D {
  return withGradient(
    addend ? [rows, gain, addend] : [rows, gain],
    (x, g, added = absent()) => {
      const [value, sum] = runRowKernel(MLARMSNorm, { x, gain: g, addend: added }, { eps });
      return { value, saved: [sum, g] };
    },
    (dY, [sum, g]) => {
      const inputs = { dY, sum, gain: g, dSum: absent() };
      const [dX, dGain] = runRowKernel(MLARMSNormBackward, inputs, { eps });
      return addend ? [dX, dGain, dX.clone()] : [dX, dGain];
    },
  ) as Tensor2D;
}

function composedNorm(rows: Tensor2D, gain: Tensor1D, eps: number): Tensor2D {
  // made here: inside, tfjs takes what stays for a leak
  const [smallest, share] = [constant(eps), constant(1 / rows.shape[1])];
  // One gradient in closed form: the composed one broadcasts and reduces five more times.
  return withGradient(
    [rows, gain],
    (x, g) => {
      // mul, since TensorFlow takes twice as long to launch tf.square
      const inverseRms = rsqrt(add(meanAlongRow(mul(x, x), share), smallest)) as Tensor2D;
      return { value: mul(scaleRows(x as Tensor2D, inverseRms), g), saved: [x, g, inverseRms] };
    },
    (dy, [x, g, inverseRms]) => {
      // again, since a column of factors is less to keep than a matrix
      const normalised = scaleRows(x as Tensor2D, inverseRms as Tensor2D);
      const dNormalised = mul<Tensor2D>(dy, g);
      const alongRow = meanAlongRow(mul(dNormalised, normalised), share);
      const dx = scaleRows(sub(dNormalised, scaleRows(normalised, alongRow)), inverseRms as Tensor2D);
      return [dx, sumRows(mul(dy, normalised))];
    },
  ) as Tensor2D;
}

/** [n, d] → [n, 1], with share = 1 / d. tf.mean would divide every element first on cpu. */
function meanAlongRow(matrix: Tensor, share: Scalar): Tensor2D {
  return mul(sumOf(matrix, 1, true), share);
}

export interface RMSNormArgs extends LayerArgs {
  /** Added to the mean square. Default 1e-6. */
  rmsNormEps?: number;
}

/** Root-mean-square norm over the last axis with a learned gain: [..., d], or two of them to be added, → [..., d]. See rmsNorm. */
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
    const [x, addend] = [inputs].flat() as [Tensor, Tensor?];
    return rmsNorm(x, this.gain.read() as Tensor1D, this.rmsNormEps, addend);
  }

  /** The norm of rows, and the sum that it is of. See addRmsNorm. */
  addAndNorm(x: Tensor2D, addend?: Tensor2D): ReturnType<typeof addRmsNorm> {
    return addRmsNorm(x, this.gain.read() as Tensor1D, this.rmsNormEps, addend);
  }

  override getConfig(): serialization.ConfigDict {
    return { ...super.getConfig(), rmsNormEps: this.rmsNormEps };
  }
}
serialization.registerClass(RMSNorm);
