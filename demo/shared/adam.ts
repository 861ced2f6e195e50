import { dispose, tidy, variable, zeros } from '@tensorflow/tfjs-core';
import type { Rank, Scalar, Tensor, Tensor1D, Variable } from '@tensorflow/tfjs-core';
import { adamUpdate, apart, joined } from '../../src/layers.js';

export interface AdamOptions {
  beta1: number;
  beta2: number;
  eps: number;
}

/** By the variable that they belong to. */
export type Moments = Record<'first_moment' | 'second_moment', Map<Variable, Variable>>;

/**
 * Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), whose whole state can be saved: tf.train.adam also keeps the
 * powers of its betas as float32 products, which its getWeights leaves out, and so cannot resume exactly.
 */
export class Adam {
  /** Updates so far: with the moments, the whole state. */
  updates = 0;
  /** Of all variables, one after another. */
  private readonly firstMoment: Variable<Rank.R1>;
  private readonly secondMoment: Variable<Rank.R1>;

  constructor(
    readonly variables: readonly Variable[],
    readonly options: AdamOptions,
  ) {
    const size = variables.reduce((all, each) => all + each.size, 0);
    const empty = (): Variable<Rank.R1> => tidy(() => variable(zeros<Rank.R1>([size]), false));
    this.firstMoment = empty();
    this.secondMoment = empty();
  }

  /**
   * One update, with gradients in the order of the variables, scaled down to a global norm of `clipNorm`.
   * Returns their norm before that.
   */
  update(gradients: readonly Tensor[], learningRate: number, clipNorm: number): Scalar {
    const { beta1, beta2, eps } = this.options;
    this.updates++;
    // lr · m̂ / (√v̂ + eps), with the corrections of m̂ and v̂ moved out of the tensors
    const correction1 = 1 - beta1 ** this.updates;
    const rootCorrection2 = Math.sqrt(1 - beta2 ** this.updates);
    const rate = (learningRate * rootCorrection2) / correction1;
    return tidy(() => {
      const { variables: values, firstMoment, secondMoment } = this;
      const rates = { beta1, beta2, smallest: eps * rootCorrection2, rate, clipNorm };
      const updated = adamUpdate({ values, firstMoment, secondMoment }, gradients, rates);
      values.forEach((each, i) => each.assign(updated.values[i]));
      firstMoment.assign(updated.firstMoment);
      secondMoment.assign(updated.secondMoment);
      return updated.norm;
    });
  }

  /** The moments of each variable, as variables of the caller's. */
  moments(): Moments {
    const { variables } = this;
    const ofEach = (moment: Tensor1D): Map<Variable, Variable> => {
      const parts = tidy(() => apart(moment, variables).map((part) => variable(part, false)));
      return new Map(variables.map((each, i) => [each, parts[i]]));
    };
    return { first_moment: ofEach(this.firstMoment), second_moment: ofEach(this.secondMoment) };
  }

  /** Takes the values of moments over, which stay the caller's. */
  setMoments({ first_moment: first, second_moment: second }: Moments): void {
    const all = (moments: Map<Variable, Variable>): Tensor1D =>
      joined(this.variables.map((each) => moments.get(each) as Variable));
    tidy(() => {
      this.firstMoment.assign(all(first));
      this.secondMoment.assign(all(second));
    });
  }

  dispose(): void {
    dispose([this.firstMoment, this.secondMoment]);
  }
}
