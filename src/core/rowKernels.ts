/** Kernels of the layers that a backend may have, each in place of many tfjs ops. Where there is none, a layer composes them. */
import { engine, getBackend, getKernel, registerKernel } from '@tensorflow/tfjs-core';
import type {
  KernelBackend,
  NamedAttrMap,
  NamedTensorMap,
  Scalar,
  Tensor,
  Tensor1D,
  TensorInfo,
} from '@tensorflow/tfjs-core';

/** The product of two matrices, either of them transposed. */
export const MLAMatMul = 'MLAMatMul';
/** Several linear maps of one input. The gradient: dX, and of each weight. See runLinearKernel. */
export const MLALinear = 'MLALinear';
export const MLALinearBackward = 'MLALinearBackward';
/** RMSNorm of x + addend over the last axis: y and the sum. The gradient: dX, which is dAddend too, and dGain. */
export const MLARMSNorm = 'MLARMSNorm';
export const MLARMSNormBackward = 'MLARMSNormBackward';
/** Rows of the heads' two parts, [b·s, heads·dn] and [b·s, heads·dr], the second turned: one tensor. The gradient: the parts'. */
export const MLARotary = 'MLARotary';
export const MLARotaryBackward = 'MLARotaryBackward';
/** silu(gate) · up. The gradient: dGate, dUp. */
export const MLASwiGLU = 'MLASwiGLU';
export const MLASwiGLUBackward = 'MLASwiGLUBackward';

/** The mean over all rows of −log softmax(logits)[label]. The gradient: dLogits. */
export const MLACrossEntropy = 'MLACrossEntropy';
export const MLACrossEntropyBackward = 'MLACrossEntropyBackward';
/** The gradient of a table [tableRows, d] of which rows were read by ids: dTable. */
export const MLAEmbeddingBackward = 'MLAEmbeddingBackward';
/** One update of Adam: the new values, both moments, and the gradients' norm. See runAdamKernel. */
export const MLAAdam = 'MLAAdam';

interface Tables<T> {
  /** [1 or b, s, 1, dr] */
  cos: T;
  sin: T;
}

/** Which columns of a head form a pair: (0,1), (2,3) …, or j with j + dr/2. */
export type RotaryPairs = 'neighbours' | 'halves';

/** An update's numbers. `rate` and `smallest` (eps) have the corrections of both moments in them. */
export interface AdamRates {
  beta1: number;
  beta2: number;
  smallest: number;
  rate: number;
  clipNorm: number;
}

/** What Adam changes: tensors, and the means of their gradients and of the squares of these, one tensor each for all of them. */
export interface AdamState {
  values: readonly Tensor[];
  firstMoment: Tensor1D;
  secondMoment: Tensor1D;
}

interface Signatures<T> {
  MLAMatMul: { inputs: { a: T; b: T }; attrs: { transposeA: boolean; transposeB: boolean } };
  /** addend may be absent: the sum is x itself then */
  MLARMSNorm: { inputs: { x: T; gain: T; addend: T }; attrs: { eps: number } };
  /** dSum may be absent */
  MLARMSNormBackward: { inputs: { dY: T; sum: T; gain: T; dSum: T }; attrs: { eps: number } };
  MLARotary: {
    /** nope is absent where dn = 0 */
    inputs: { nope: T; rope: T } & Tables<T>;
    /** heads: of the result [b, s, heads, dn + dr]; 0 for one of [b, s, dr] */
    attrs: { pairs: RotaryPairs; heads: number };
  };
  MLARotaryBackward: { inputs: { dJoined: T } & Tables<T>; attrs: { pairs: RotaryPairs } };
  MLASwiGLU: { inputs: { gate: T; up: T }; attrs: Record<string, never> };
  MLASwiGLUBackward: { inputs: { dOut: T; gate: T; up: T }; attrs: Record<string, never> };
  /** logits [..., vocabulary], labels int32 [...] */
  MLACrossEntropy: { inputs: { logits: T; labels: T }; attrs: Record<string, never> };
  MLACrossEntropyBackward: { inputs: { dLoss: T; logits: T; labels: T }; attrs: Record<string, never> };
  /** dRows [n, d], ids int32 [n] */
  MLAEmbeddingBackward: { inputs: { dRows: T; ids: T }; attrs: { tableRows: number } };
}

export type RowKernelName = keyof Signatures<unknown>;

interface ListKernels<Backend> {
  /** inputs: values, as many gradients, both moments */
  MLAAdam?: (inputs: TensorInfo[], rates: AdamRates, backend: Backend) => TensorInfo[];
  /** inputs: x, weights; shapes: of the results, [] for [rows, out]; none where all are rows */
  MLALinear?: (inputs: TensorInfo[], attrs: { shapes: number[][] }, backend: Backend) => TensorInfo[];
  /** inputs: x, weights, gradients of the results */
  MLALinearBackward?: (inputs: TensorInfo[], attrs: object, backend: Backend) => TensorInfo[];
}

/** The row kernels of a backend; those of lists of tensors have no names for their inputs. */
export type RowKernels<Backend> = {
  [Name in RowKernelName]?: (
    inputs: Signatures<TensorInfo>[Name]['inputs'],
    attrs: Signatures<TensorInfo>[Name]['attrs'],
    backend: Backend,
  ) => TensorInfo | TensorInfo[];
} & ListKernels<Backend>;

/** Registers them; kernels that are there already stay. */
export function registerRowKernels<Backend extends KernelBackend>(
  backendName: string,
  kernels: RowKernels<Backend>,
): void {
  for (const [kernelName, kernel] of Object.entries(kernels)) {
    if (getKernel(kernelName, backendName)) continue;
    // every kernel gets its own inputs: they are registered under its own name
    const run = kernel as (inputs: unknown, attrs: unknown, backend: Backend) => TensorInfo | TensorInfo[];
    registerKernel({
      kernelName,
      backendName,
      kernelFunc: ({ inputs, attrs, backend }) => run(inputs, attrs, backend as Backend),
    });
  }
}

/** Whether the current backend has a kernel. */
export function hasRowKernel(name: RowKernelName | keyof ListKernels<unknown>): boolean {
  return getKernel(name, getBackend()) !== undefined;
}

/** Its results. A gradient is registered for MLARMSNorm alone: layers run the others inside withGradient. */
export function runRowKernel<Name extends RowKernelName>(
  name: Name,
  inputs: Signatures<Tensor>[Name]['inputs'],
  attrs: Signatures<Tensor>[Name]['attrs'],
): Tensor[] {
  const results = engine().runKernel<Tensor | Tensor[]>(name, { ...inputs }, attrs);
  return [results].flat();
}

/** x times each weight [out, in], transposed: rows, or in the shape given. Differentiable. */
export function runLinearKernel(x: Tensor, weights: Tensor[], shapes: (number[] | undefined)[]): Tensor[] {
  // without a shape that is given, none
  const attrs = { shapes: shapes.some((shape) => shape) ? shapes.map((shape) => shape ?? []) : [] };
  return runListKernel(MLALinear, [x, ...weights], attrs);
}

/** MLALinear's gradients: of x, and of each weight. */
export function runLinearBackwardKernel(inputs: readonly Tensor[], dYs: readonly Tensor[]): Tensor[] {
  return runListKernel(MLALinearBackward, [...inputs, ...dYs], {});
}

/** MLAAdam's. */
export function runAdamKernel(
  { values, firstMoment, secondMoment }: AdamState,
  gradients: readonly Tensor[],
  rates: AdamRates,
): AdamState & { norm: Scalar } {
  const inputs = [...values, ...gradients, firstMoment, secondMoment];
  const results = runListKernel(MLAAdam, inputs, { ...rates });
  const [first, second, norm] = results.slice(values.length) as [Tensor1D, Tensor1D, Scalar];
  return { values: results.slice(0, values.length), firstMoment: first, secondMoment: second, norm };
}

/** tfjs's own kernels of lists take them so too, past the types. */
function runListKernel(name: keyof ListKernels<unknown>, inputs: Tensor[], attrs: NamedAttrMap): Tensor[] {
  return [engine().runKernel<Tensor | Tensor[]>(name, inputs as unknown as NamedTensorMap, attrs)].flat();
}
