import {
  add,
  concat,
  dispose,
  div,
  minimum,
  mul,
  reshape,
  split,
  sqrt,
  sub,
  sum,
  tensor1d,
  tidy,
  unstack,
  variable,
  zeros,
} from '@tensorflow/tfjs-core';
import type { Rank, Scalar, Tensor, Tensor1D, Variable } from '@tensorflow/tfjs-core';
import { MLAAdam, hasRowKernel, runAdamKernel } from '../core/rowKernels.js';
import type { AdamRates, AdamState } from '../core/rowKernels.js';

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
      const update = hasRowKernel(MLAAdam) ? runAdamKernel : composedUpdate;
      const updated = update({ values, firstMoment, secondMoment }, gradients, rates);
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

/** On all numbers at once: a dozen ops for each tensor would take longer to launch than to compute. */
function composedUpdate(
  state: AdamState,
  gradients: readonly Tensor[],
  { beta1, beta2, smallest, rate, clipNorm }: AdamRates,
): AdamState & { norm: Scalar } {
  // made as one tensor: a number in a tfjs op is a tensor of its own, and a GPU may have to wait for each
  const numbers = [beta1, 1 - beta1, beta2, 1 - beta2, smallest, rate, clipNorm, 1];
  const [keep1, add1, keep2, add2, least, step, limit, one] = unstack(tensor1d(numbers));
  const unscaled = joined(gradients);
  const norm = sqrt(sum<Scalar>(mul(unscaled, unscaled)));
  const gradient = mul(unscaled, minimum(one, div(limit, norm)));
  const firstMoment: Tensor1D = add(mul(state.firstMoment, keep1), mul(gradient, add1));
  const secondMoment: Tensor1D = add(mul(state.secondMoment, keep2), mul(mul(gradient, gradient), add2));
  const change = div(mul(firstMoment, step), add(sqrt(secondMoment), least));
  const values = apart(sub<Tensor1D>(joined(state.values), change), state.values);
  return { values, firstMoment, secondMoment, norm };
}

/** The numbers of all tensors, one after another. */
function joined(tensors: readonly Tensor[]): Tensor1D {
  return concat(tensors.map((each) => reshape(each, [each.size])));
}

/** The same in tensors of their own again, shaped like others. */
function apart(all: Tensor1D, like: readonly Tensor[]): Tensor[] {
  const parts = split(
    all,
    like.map(({ size }) => size),
  );
  return parts.map((part, i) => reshape(part, like[i].shape));
}
