/** The row kernels of tfjs's 'tensorflow' backend: ops of ours, but for the product of matrices. */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import * as names from '../../src/core/rowKernels.js';
import type { RotaryPairs, RowKernels } from '../../src/core/rowKernels.js';
import type { Attribute, TensorflowBackend } from './index.js';

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
  [names.MLARMSNorm]: ({ x, gain }, { eps }, backend) =>
    run(names.MLARMSNorm, [epsAttribute(eps, backend)], [x, gain], 1, backend),
  [names.MLARMSNormBackward]: ({ dY, x, gain }, { eps }, backend) =>
    run(names.MLARMSNormBackward, [epsAttribute(eps, backend)], [dY, x, gain], 2, backend),
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
    // no attributes, as they change from step to step; the op reads them on the host, so that no GPU waits for them
    const shape = [values.length];
    const numbers = { dataId: backend.write(values, shape, 'float32'), shape, dtype: 'float32' } as const;
    const tensors = (lists.length - 2) / 2;
    const attributes = [{ name: 'N', type: backend.binding.TF_ATTR_INT, value: tensors }];
    const updated = run(names.MLAAdam, attributes, [...lists, numbers], tensors + 3, backend);
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
): TensorInfo[] {
  return backend.executeMultipleOutputs(op, attributes, inputs, outputs);
}

function epsAttribute(eps: number, { binding }: TensorflowBackend): Attribute {
  return { name: 'eps', type: binding.TF_ATTR_FLOAT, value: eps };
}

function pairsAttribute(pairs: RotaryPairs, { binding }: TensorflowBackend): Attribute {
  return { name: 'pairs', type: binding.TF_ATTR_STRING, value: pairs };
}
