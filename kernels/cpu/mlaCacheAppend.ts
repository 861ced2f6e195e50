/** Writes new rows into a cache's own buffers, in place. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { packFloat16 } from '../../src/core/float16.js';
import type { CacheAppendInputs } from '../../src/core/kernelInputs.js';
import { floatsOf, integersOf } from './rows.js';

/**
 * MLACacheAppend: cKv [b, capacity, r], kRope [b, capacity, rr], newCkv [b, n, r], newKRope [b, n, rr], lengths
 * int32 [2, b] (rows before, rows to add) → nothing. A packed cache has half as many columns.
 */
export function mlaCacheAppend(
  { cKv, kRope, newCkv, newKRope, lengths }: CacheAppendInputs,
  backend: MathBackendCPU,
): TensorInfo[] {
  const counts = integersOf(backend, lengths);
  const append = (cache: TensorInfo, rows: TensorInfo): void => {
    const [batch, n, columns] = rows.shape;
    const capacity = cache.shape[1];
    for (let b = 0; b < batch; b++) {
      const added = floatsOf(backend, rows).subarray(b * n * columns, (b * n + counts[batch + b]) * columns);
      const at = (b * capacity + counts[b]) * columns;
      if (cache.dtype === 'int32') packFloat16(integersOf(backend, cache), at, added);
      else floatsOf(backend, cache).set(added, at);
    }
  };
  append(cKv, newCkv);
  append(kRope, newKRope);
  return [];
}
