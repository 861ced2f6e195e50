/** Writes new rows into a cache's own buffers, in place. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { CacheAppendInputs } from '../../src/core/kernelInputs.js';
import { floatsOf, integersOf } from './rows.js';

/**
 * MLACacheAppend: cKv [b, capacity, r], kRope [b, capacity, rr], newCkv [b, n, r], newKRope [b, n, rr], lengths
 * int32 [2, b] (rows before, rows to add) → nothing.
 */
export function mlaCacheAppend(
  { cKv, kRope, newCkv, newKRope, lengths }: CacheAppendInputs,
  backend: MathBackendCPU,
): TensorInfo[] {
  const counts = integersOf(backend, lengths);
  const append = (cache: TensorInfo, rows: TensorInfo): void => {
    const [batch, capacity, columns] = cache.shape;
    const n = rows.shape[1];
    for (let b = 0; b < batch; b++) {
      const added = floatsOf(backend, rows).subarray(b * n * columns, (b * n + counts[batch + b]) * columns);
      floatsOf(backend, cache).set(added, (b * capacity + counts[b]) * columns);
    }
  };
  append(cKv, newCkv);
  append(kRope, newKRope);
  return [];
}
