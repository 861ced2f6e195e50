import { fail } from './errors.js';

/**
 * How a cache's tensors hold their numbers. 'float16': packed, two to a word, in int32 tensors with half as many
 * columns; the even column stands in the lower half, as in WGSL's pack2x16float. Only kernels of ours may read such a
 * tensor: tfjs's own round integers above 2^24.
 */
export type CacheFormat = 'float32' | 'float16';

const formats = {
  float32: { dtype: 'float32', numbersPerWord: 1 },
  float16: { dtype: 'int32', numbersPerWord: 2 },
} as const;

/** The label of tensors in this format. */
export function cacheDtype(format: CacheFormat): 'float32' | 'int32' {
  return formats[format].dtype;
}

/** Columns of a tensor whose rows hold so many numbers. Throws if they do not fill whole words. */
export function cacheColumns(fn: string, name: string, numbers: number, format: CacheFormat): number {
  const columns = numbers / formats[format].numbersPerWord;
  if (!Number.isInteger(columns)) fail(fn, `${name} must be even for storage '${format}', got ${numbers}`);
  return columns;
}
