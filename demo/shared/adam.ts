import {
  concat,
  dispose,
  mul,
  split,
  sqrt,
  stack,
  sum,
  tidy,
  util,
  variable,
  zeros,
} from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Variable } from '@tensorflow/tfjs-core';
import { adamUpdate } from '../../src/layers.js';

export interface AdamOptions {
  beta1: number;
  beta2: number;
  eps: number;
}

/** By the variable that they belong to. */
export type Moments = Record<'first_moment' | 'second_moment', Map<Variable, Variable>>;

/** Variables whose rows are alike, and their moments: one tensor each, all rows one after another. */
interface Group {
  variables: Variable[];
  firstMoment: Variable;
  secondMoment: Variable;
}

/**
 * Adam (Kingma and Ba, arXiv:1412.6980, algorithm 1), whose whole state can be saved: tf.train.adam also keeps the
 * powers of its betas as float32 products, which its getWeights leaves out, and so cannot resume exactly.
 *
 * Variables with rows of one shape are updated together: a dozen ops for each of them would take the host longer than the
 * numbers take a GPU.
 */
export class Adam {
  /** Updates so far: with the moments, the whole state. */
  updates = 0;
  private readonly groups: Group[];

  constructor(
    readonly variables: readonly Variable[],
    readonly options: AdamOptions,
  ) {
    this.groups = alike(variables).map((group) => {
      const rows = group.reduce((all, { shape }) => all + shape[0], 0);
      const empty = (): Variable => tidy(() => variable(zeros([rows, ...group[0].shape.slice(1)]), false));
      return { variables: group, firstMoment: empty(), secondMoment: empty() };
    });
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
      const gradientOf = new Map(this.variables.map((each, i) => [each, gradients[i]]));
      const joined = this.groups.map((group) =>
        concat(group.variables.map((each) => gradientOf.get(each) as Tensor)),
      );
      const norm = sqrt(sum<Scalar>(stack(joined.map((gradient) => sum(mul(gradient, gradient))))));
      const update = adamUpdate({ beta1, beta2, smallest: eps * rootCorrection2, rate, clipNorm }, norm);
      this.groups.forEach(({ variables, firstMoment, secondMoment }, i) => {
        tidy(() => {
          const updated = update({ value: concat(variables), firstMoment, secondMoment }, joined[i]);
          firstMoment.assign(updated.firstMoment);
          secondMoment.assign(updated.secondMoment);
          const values = rowsOf(variables, updated.value);
          variables.forEach((each, v) => each.assign(values[v]));
        });
      });
      return norm;
    });
  }

  /** The moments of each variable, as variables of the caller's. */
  moments(): Moments {
    const moments: Moments = { first_moment: new Map(), second_moment: new Map() };
    tidy(() => {
      for (const { variables, firstMoment, secondMoment } of this.groups) {
        const [first, second] = [rowsOf(variables, firstMoment), rowsOf(variables, secondMoment)];
        variables.forEach((each, i) => {
          moments.first_moment.set(each, variable(first[i], false));
          moments.second_moment.set(each, variable(second[i], false));
        });
      }
    });
    return moments;
  }

  /** Takes the values of moments over, which stay the caller's. */
  setMoments({ first_moment: first, second_moment: second }: Moments): void {
    tidy(() => {
      for (const { variables, firstMoment, secondMoment } of this.groups) {
        firstMoment.assign(concat(variables.map((each) => first.get(each) as Variable)));
        secondMoment.assign(concat(variables.map((each) => second.get(each) as Variable)));
      }
    });
  }

  dispose(): void {
    for (const { firstMoment, secondMoment } of this.groups) dispose([firstMoment, secondMoment]);
  }
}

/** Variables that differ in their first axis alone stand together. */
function alike(variables: readonly Variable[]): Variable[][] {
  const groups: Variable[][] = [];
  for (const each of variables) {
    const group = groups.find(([{ shape }]) => util.arraysEqual(shape.slice(1), each.shape.slice(1)));
    if (group) group.push(each);
    else groups.push([each]);
  }
  return groups;
}

/** The rows of each variable out of those of all. */
function rowsOf(variables: readonly Variable[], all: Tensor): Tensor[] {
  return split(
    all,
    variables.map(({ shape }) => shape[0]),
  );
}
