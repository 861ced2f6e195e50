/** Reads of tensors that an op changes in place. */
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from './index.js';

/** What is private in tfjs-node's backend. */
interface Handles {
  readonly tensorMap?: { get(dataId: object): { id: number } };
  readonly binding: {
    executeOp?(op: string, attributes: object[], ids: number[], outputs: number): { id: number }[];
    deleteTensor?(id: number): void;
  };
}

/**
 * TensorFlow keeps the copy that a read of a GPU tensor made on the host beside the tensor's handle, and shows it at every
 * later read. This gives float32 tensors new handles of the same memory. Throws if this tfjs-node hides its handles.
 */
export function forgetHostCopies(tensors: TensorInfo[], backend: TensorflowBackend): void {
  const { tensorMap, binding } = backend as unknown as Handles;
  if (!tensorMap || !binding.executeOp || !binding.deleteTensor) {
    throw new Error(
      'tfjs-mla/node: a LatentCache on a GPU: required: a tfjs-node whose backend has tensorMap, supported: 4.22',
    );
  }
  const { TF_ATTR_TYPE, TF_FLOAT } = backend.binding;
  for (const { dataId } of tensors) {
    const data = tensorMap.get(dataId);
    const type = { name: 'T', type: TF_ATTR_TYPE, value: TF_FLOAT };
    const [{ id }] = binding.executeOp('Identity', [type], [data.id], 1);
    binding.deleteTensor(data.id);
    data.id = id;
  }
}
