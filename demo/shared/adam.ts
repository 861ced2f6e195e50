import {
  add,
  concat1d,
  div,
  dispose,
  minimum,
  mul,
  reshape,
  split,
  sqrt,
  square,
  sub,
  sum,
  tidy,
  variable,
  zeros,
} from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Tensor1D, Variable } from '@tensorflow/tfjs-core';

export interface AdamOptions {
  beta1: number;
  beta2: number;
  eps: number;
}

/**
 * Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), whose whole state can be saved: tf.train.adam also keeps the
 * powers of its betas as float32 products, which its getWeights leaves out, and so cannot resume exactly.
 *
 * Gradients and moments of all variables are one tensor each: a dozen ops a variable would take the host longer than the
 * numbers take a GPU.
 */
export class Adam {
  /** Updates so far: with the moments, the whole state. */
  updates = 0;
  /** [all numbers of the variables, one after another] */
  readonly firstMoment: Variable;
  readonly secondMoment: Variable;

  constructor(
    readonly variables: readonly Variable[],
    readonly options: AdamOptions,
  ) {
    const size = sizesOf(variables).reduce((all, one) => all + one, 0);
    const empty = (): Variable => tidy(() => variable(zeros([size]), false));
    this.firstMoment = empty();
    this.secondMoment = empty();
  }

  /** One update, with the gradients as joined() makes them of the variables' own. */
  update(gradient: Tensor1D, learningRate: number): void {
    const { beta1, beta2, eps } = this.options;
    this.updates++;
    // lr · m̂ / (√v̂ + eps), with the corrections of m̂ and v̂ moved out of the tensors
    const correction1 = 1 - beta1 ** this.updates;
    const rootCorrection2 = Math.sqrt(1 - beta2 ** this.updates);
    tidy(() => {
      const first = add(mul(this.firstMoment, beta1), mul(gradient, 1 - beta1));
      const second = add(mul(this.secondMoment, beta2), mul(square(gradient), 1 - beta2));
      const rate = (learningRate * rootCorrection2) / correction1;
      const change = div(mul(first, rate), add(sqrt(second), eps * rootCorrection2));
      this.firstMoment.assign(first);
      this.secondMoment.assign(second);
      const changes = this.separated(change);
      this.variables.forEach((each, i) => each.assign(sub(each, changes[i])));
    });
  }

  /** The moments of each variable, as variables of the caller's. */
  moments(): { first: Variable[]; second: Variable[] } {
    const owned = (moment: Tensor): Variable[] =>
      tidy(() => this.separated(moment).map((part) => variable(part, false)));
    return { first: owned(this.firstMoment), second: owned(this.secondMoment) };
  }

  /** Takes moments over that are of the variables' shapes. */
  setMoments({ first, second }: { first: readonly Tensor[]; second: readonly Tensor[] }): void {
    tidy(() => {
      this.firstMoment.assign(joined(first));
      this.secondMoment.assign(joined(second));
    });
  }

  dispose(): void {
    dispose([this.firstMoment, this.secondMoment]);
  }

  private separated(all: Tensor): Tensor[] {
    const parts = split(all, sizesOf(this.variables));
    return parts.map((part, i) => reshape(part, this.variables[i].shape));
  }
}

/** All numbers of some tensors, one after another. */
export function joined(tensors: readonly Tensor[]): Tensor1D {
  return tidy(() => concat1d(tensors.map((tensor) => reshape(tensor, [tensor.size]))));
}

/** √ of the sum of all squares, on the device. */
export function normOf(gradient: Tensor1D): Scalar {
  return tidy(() => sqrt(sum<Scalar>(square(gradient))));
}

/** The gradient times min(1, limit / norm). */
export function clipByNorm(gradient: Tensor1D, norm: Scalar, limit: number): Tensor1D {
  return tidy(() => mul(gradient, minimum(1, div(limit, norm))));
}

function sizesOf(tensors: readonly Tensor[]): number[] {
  return tensors.map(({ size }) => size);
}
