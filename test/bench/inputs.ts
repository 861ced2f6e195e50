import { createRandom } from '../../src/models/random.js';

/** Prime, so that no two rows of a tensor are alike. */
const poolSize = 1_000_003;
let pool: Float32Array | undefined;
let position = 0;

/** Normally distributed numbers. They repeat after a million: a large shape takes a hundred times as many. */
export function normals(size: number): Float32Array {
  pool ??= makePool();
  const values = new Float32Array(size);
  for (let filled = 0; filled < size;) {
    const part = pool.subarray(position, position + size - filled);
    values.set(part, filled);
    filled += part.length;
    position = (position + part.length) % poolSize;
  }
  return values;
}

/** Box and Muller. */
function makePool(): Float32Array {
  const random = createRandom(1);
  return Float32Array.from(
    { length: poolSize },
    () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()),
  );
}
