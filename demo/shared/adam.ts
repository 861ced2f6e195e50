import {
  add,
  div,
  dispose,
  minimum,
  mul,
  scalar,
  sqrt,
  square,
  stack,
  sub,
  sum,
  tidy,
  variable,
  zeros,
} from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';

export interface AdamOptions {
  beta1: number;
  beta2: number;
  eps: number;
}

/**
 * Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), whose whole state can be saved: tf.train.adam also keeps the
 * powers of its betas as float32 products, which its getWeights leaves out, and so cannot resume exactly.
 */
export class Adam {
  /** Updates so far: with the moments, the whole state. */
  updates = 0;
  readonly firstMoments: Variable[];
  readonly secondMoments: Variable[];

  constructor(
    readonly variables: readonly Variable[],
    readonly options: AdamOptions,
  ) {
    const zerosLike = ({ shape }: Variable): Variable => tidy(() => variable(zeros(shape), false));
    this.firstMoments = variables.map(zerosLike);
    this.secondMoments = variables.map(zerosLike);
  }

  /** One update, with gradients in the order of the variables. */
  update(gradients: readonly Tensor[], learningRate: number): void {
    const { beta1, beta2, eps } = this.options;
    this.updates++;
    // lr · m̂ / (√v̂ + eps), with the corrections of m̂ and v̂ moved out of the tensors
    const correction1 = 1 - beta1 ** this.updates;
    const rootCorrection2 = Math.sqrt(1 - beta2 ** this.updates);
    tidy(() => {
      // made once for all variables: a number in a tfjs op is a tensor of its own
      const [keep1, add1, keep2, add2, smallest, rate] = [
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        eps * rootCorrection2,
        (learningRate * rootCorrection2) / correction1,
      ].map((value) => scalar(value));
      gradients.forEach((gradient, i) => {
        const first = add(mul(this.firstMoments[i], keep1), mul(gradient, add1));
        const second = add(mul(this.secondMoments[i], keep2), mul(square(gradient), add2));
        const change = div(mul(first, rate), add(sqrt(second), smallest));
        this.firstMoments[i].assign(first);
        this.secondMoments[i].assign(second);
        this.variables[i].assign(sub(this.variables[i], change));
      });
    });
  }

  dispose(): void {
    dispose([...this.firstMoments, ...this.secondMoments]);
  }
}

/** √ of the sum of all squares, on the device. (tf.addN binds all its inputs at once: too many for a GPU.) */
export function globalNorm(gradients: readonly Tensor[]): Scalar {
  return tidy(() => sqrt(sum<Scalar>(stack(gradients.map((gradient) => sum(square(gradient)))))));
}

/** Gradients times min(1, limit / norm). */
export function clipByNorm(gradients: readonly Tensor[], norm: Scalar, limit: number): Tensor[] {
  return tidy(() => {
    const factor = minimum(1, div(limit, norm));
    return gradients.map((gradient) => mul(gradient, factor));
  });
}
