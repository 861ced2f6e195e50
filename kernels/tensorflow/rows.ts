/** The row kernels of tfjs's 'tensorflow' backend: ops of ours, but for the product of matrices. */
import type { Tensor, TensorInfo } from '@tensorflow/tfjs-core';
import * as names from '../../src/core/rowKernels.js';
import type { RotaryPairs, RowKernels } from '../../src/core/rowKernels.js';
import { absent, isAbsent } from '../../src/core/tensors.js';
import type { Attribute, TensorflowBackend } from './index.js';

/** By cuBLAS. */
export const linearKernels: RowKernels<TensorflowBackend> = {
  [names.MLALinear]: (inputs, { shapes }, backend) => {
    const maps = inputs.length - 1;
    const attributes = [listAttribute(maps, backend)];
    if (shapes.length === 0)
      return run(names.MLALinear, attributes, [...inputs, absent('int32')], maps, backend);
    const behindRanks = shapes.flatMap((shape) => [shape.length, ...shape]);
    const given = hostTensor(Int32Array.from(behindRanks), backend);
    const results = run(names.MLALinear, attributes, [...inputs, given], maps, backend);
    backend.disposeData(given.dataId);
    return results;
  },
  // inputs: x, weights, as many dYs
  [names.MLALinearBackward]: (inputs, _, backend) => {
    const maps = (inputs.length - 1) / 2;
    return run(names.MLALinearBackward, [listAttribute(maps, backend)], inputs, 1 + maps, backend);
  },
};

export const rowKernels: RowKernels<TensorflowBackend> = {
  // tfjs-node takes TensorFlow's op for batches, whose launch takes longer
  [names.MLAMatMul]: ({ a, b }, { transposeA, transposeB }, backend) => {
    const type = backend.binding.TF_ATTR_BOOL;
    // the others are false, and T is that of the inputs
    const attributes = [
      ...(transposeA ? [{ name: 'transpose_a', type, value: true }] : []),
      ...(transposeB ? [{ name: 'transpose_b', type, value: true }] : []),
    ];
    return run('MatMul', attributes, [a, b], 1, backend);
  },
  [names.MLARMSNorm]: ({ x, gain, addend }, { eps }, backend) => {
    const [y, sum] = run(names.MLARMSNorm, [epsAttribute(eps, backend)], [x, gain, addend], 2, backend);
    if (!isAbsent(addend)) return [y, sum];
    // the sum is x itself, not a copy
    sum.dispose();
    backend.incRef(x.dataId);
    return [y, { dataId: x.dataId, shape: x.shape, dtype: x.dtype }];
  },
  [names.MLARMSNormBackward]: ({ dY, sum, gain, dSum }, { eps }, backend) =>
    run(names.MLARMSNormBackward, [epsAttribute(eps, backend)], [dY, sum, gain, dSum], 2, backend),
  [names.MLARotary]: ({ nope, rope, cos, sin }, { pairs, heads }, backend) => {
    const attributes = [
      pairsAttribute(pairs, backend),
      { name: 'heads', type: backend.binding.TF_ATTR_INT, value: heads },
    ];
    return run(names.MLARotary, attributes, [nope, rope, cos, sin], 1, backend);
  },
  [names.MLARotaryBackward]: ({ dJoined, cos, sin }, { pairs }, backend) =>
    run(names.MLARotaryBackward, [pairsAttribute(pairs, backend)], [dJoined, cos, sin], 2, backend),
  [names.MLASwiGLU]: ({ gate, up }, _, backend) => run(names.MLASwiGLU, [], [gate, up], 1, backend),
  [names.MLASwiGLUBackward]: ({ dOut, gate, up }, _, backend) =>
    run(names.MLASwiGLUBackward, [], [dOut, gate, up], 2, backend),
  [names.MLACrossEntropy]: ({ logits, labels }, _, backend) =>
    run(names.MLACrossEntropy, [], [logits, labels], 1, backend),
  [names.MLACrossEntropyBackward]: ({ dLoss, logits, labels }, _, backend) =>
    run(names.MLACrossEntropyBackward, [], [dLoss, logits, labels], 1, backend),
  [names.MLAEmbeddingBackward]: ({ dRows, ids }, { tableRows }, backend) => {
    const attributes = [{ name: 'table_rows', type: backend.binding.TF_ATTR_INT, value: tableRows }];
    return run(names.MLAEmbeddingBackward, attributes, [dRows, ids], 1, backend);
  },
  [names.MLAAdam]: (lists, rates, backend) => {
    const { beta1, beta2, smallest, rate, clipNorm } = rates;
    const values = new Float32Array([beta1, 1 - beta1, beta2, 1 - beta2, smallest, rate, clipNorm]);
    const numbers = hostTensor(new Int32Array(values.buffer), backend);
    const tensors = (lists.length - 2) / 2;
    const updated = run(
      names.MLAAdam,
      [listAttribute(tensors, backend)],
      [...lists, numbers],
      tensors + 3,
      backend,
    );
    backend.disposeData(numbers.dataId);
    return updated;
  },
};

function run(
  op: string,
  attributes: Attribute[],
  inputs: TensorInfo[],
  outputs: number,
  backend: TensorflowBackend,
): Tensor[] {
  return backend.executeMultipleOutputs(op, attributes, inputs, outputs);
}

/**
 * For what changes from step to step: it is no attribute, and the op reads it on the host. Floats come by their bits, since
 * tfjs-node leaves int32 alone there: they would go to a GPU and back, and wait for it twice.
 */
function hostTensor(values: Int32Array, backend: TensorflowBackend): TensorInfo {
  const shape = [values.length];
  return { dataId: backend.write(values, shape, 'int32'), shape, dtype: 'int32' };
}

/** How many tensors a list of inputs has. */
function listAttribute(tensors: number, { binding }: TensorflowBackend): Attribute {
  return { name: 'N', type: binding.TF_ATTR_INT, value: tensors };
}

function epsAttribute(eps: number, { binding }: TensorflowBackend): Attribute {
  return { name: 'eps', type: binding.TF_ATTR_FLOAT, value: eps };
}

function pairsAttribute(pairs: RotaryPairs, { binding }: TensorflowBackend): Attribute {
  return { name: 'pairs', type: binding.TF_ATTR_STRING, value: pairs };
}
