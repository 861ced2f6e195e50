/**
 * The latent cache, key and value in one, on its way into the arena: floats become halves, a packed cache is copied unit
 * by unit.
 */
import type { Binding, OperandConstants } from '../operands.js';
import { unitCounts } from './form.js';
import type { Copied, Place } from './staging.js';

/**
 * A packed cache is bound as if it were written: that keeps the compiler from moving its loads to where their values are
 * used, behind the barriers that were to hide them (a sixth of the time). Nothing else has its dtype, so that no other
 * input can be the same buffer.
 */
export function cacheBindings({ DR, IS_PACKED }: OperandConstants): Binding[] {
  const names = DR > 0 ? ['k', 'k_rope'] : ['k'];
  return names.map((name) => ({ name, access: IS_PACKED ? 'write' : 'read' }));
}

/** The tensors that are bound in units, as a packed cache is. */
export function packedCache(record: OperandConstants): string[] {
  return record.IS_PACKED ? cacheBindings(record).map(({ name }) => name) : [];
}

/** `k_unit(start, unit)`, `k_rope_unit(start, unit)`: eight columns of a row of the cache as halves. */
export function cacheUnits({ DR, IS_PACKED }: OperandConstants): string {
  const names = DR > 0 ? ['k', 'k_rope'] : ['k'];
  return names
    .map((name) => {
      if (IS_PACKED)
        return `fn ${name}_unit(start: u32, unit: u32) -> vec4u { return ${name}[(start >> 3u) + unit]; }`;
      const [columns, columns4] = name === 'k' ? ['DN', 'DN4'] : ['DR', 'DR4'];
      return `
fn ${name}_columns(start: u32, c: u32) -> vec4f {
  if (c >= ${columns4}) { return vec4f(0.0); }
  return ${name}_load(start, c, ${columns});
}

fn ${name}_unit(start: u32, unit: u32) -> vec4u {
  return halves_of(${name}_columns(start, 2u * unit), ${name}_columns(start, 2u * unit + 1u));
}`;
    })
    .join('\n');
}

/** Rows of the cache from `key` on. What lies past the length may be anything: it is read from the last row that exists. */
export function cacheRows(record: OperandConstants, { at, stride }: Place, key: string): Copied[] {
  const { DN_UNITS, DR_UNITS } = unitCounts(record);
  const row = `min(${key} + copy_row, max(tile.kv_length, 1u) - 1u)`;
  const to = `${at}u + copy_row * ${stride}u`;
  return [
    {
      name: 'k',
      units: DN_UNITS,
      from: `batch * u.k_b + ${row} * u.k_s`,
      to,
      load: (unit: string) => `k_unit(k_from, ${unit})`,
    },
    {
      name: 'k_rope',
      units: DR_UNITS,
      from: `batch * u.k_rope_b + ${row} * u.k_rope_s`,
      to: `${to} + DN_UNITS`,
      load: (unit: string) => `k_rope_unit(k_rope_from, ${unit})`,
    },
  ].filter(({ units }) => units > 0);
}
