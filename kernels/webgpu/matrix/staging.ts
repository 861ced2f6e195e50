/**
 * Rows of packed halves (halves.ts), or of floats right from the tensors, on their way into the arena, eight threads a
 * row. What is fetched waits in registers while matrices are multiplied; then it is put.
 *
 * Needs in the shader: `head` (batch · hkv + kv_head), `batch`, `copy_row`, `copy_unit` and the binding `halves`; for
 * floats `tile` and the columns of operands.ts.
 */
import type { Binding, OperandConstants } from '../operands.js';
import { repeat } from '../wgsl.js';
import { unitCounts } from './form.js';

/** Threads that copy one row, unless a shader says otherwise; THREADS / ROW_COPIERS rows are staged at a time. */
export const ROW_COPIERS = 8;

/** Declares bindings that are read or written in units. */
export function declareUnits(all: Binding[], names: string[]): string {
  return names
    .map((name) => {
      const binding = all.findIndex((candidate) => candidate.name === name);
      const access = all[binding].access === 'write' ? 'read_write' : 'read';
      return `@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<vec4u>;`;
    })
    .join('\n');
}

/** Where rows lie in the arena: `stride` units from one to the next, from unit `at` on. */
export interface Place {
  at: number;
  stride: number;
  /** of split numbers: units from a row's high halves to its low ones; in `halves` these follow right behind */
  low?: number;
}

/** This thread's share of one row of a region. */
export interface Copied {
  /** prefix of the registers that hold it */
  name: string;
  units: number;
  /** WGSL for where the row begins in `halves`, or what `load` knows it by, and where in the arena */
  from: string;
  to: string;
  /** WGSL for a unit of the row, if it does not come from `halves` */
  load?: (unit: string) => string;
}

/** Keys `key` + copy_row: each head's own columns, and those that all heads share. */
export function keyRows(record: OperandConstants, place: Place, key: string): Copied[] {
  const { DN_UNITS, DR_UNITS } = unitCounts(record);
  const row = `min(${key} + copy_row, u.skv - 1u)`;
  const to = `${place.at}u + copy_row * ${place.stride}u`;
  const parts = place.low === undefined ? '' : '2u * ';
  return [
    { name: 'k', units: DN_UNITS, from: `u.k_at + (head * u.skv + ${row}) * ${parts}DN_UNITS`, to },
    {
      name: 'k_rope',
      units: DR_UNITS,
      from: `u.k_rope_at + (batch * u.skv + ${row}) * ${parts}DR_UNITS`,
      to: `${to} + DN_UNITS`,
    },
  ]
    .filter(({ units }) => units > 0)
    .flatMap((copied) => withLow(copied, place));
}

/** Values `key` + copy_row. */
export function valueRows(record: OperandConstants, place: Place, key: string): Copied[] {
  const parts = place.low === undefined ? '' : '2u * ';
  const from = `u.v_at + (head * u.skv + min(${key} + copy_row, u.skv - 1u)) * ${parts}DV_UNITS`;
  const to = `${place.at}u + copy_row * ${place.stride}u`;
  return withLow({ name: 'v', units: unitCounts(record).DV_UNITS, from, to }, place);
}

/** Keys or values `key` + copy_row as they are, vec4 columns; 0 past the lengths. */
export function floatRows(name: 'k' | 'v', units: number, { at, stride }: Place, key: string): Copied[] {
  const load = (unit: string): string => `bitcast<vec4u>(${name}_column(tile, ${name}_from, ${unit}))`;
  const to = `${at}u + copy_row * ${stride}u`;
  return [{ name, units, from: `${key} + copy_row`, to, load }];
}

function withLow(copied: Copied, { low }: Place): Copied[] {
  const { name, units, from, to } = copied;
  if (low === undefined) return [copied];
  return [copied, { name: `${name}_low`, units, from: `${from} + ${units}u`, to: `${to} + ${low}u` }];
}

/** Packed rows of queries `m` + copy_row. */
export function queryRows(record: OperandConstants, { at, stride }: Place, m: string): Copied[] {
  const from = `u.q_at + (head * u.sq * GROUP + min(${m} + copy_row, u.sq * GROUP - 1u)) * QK_UNITS`;
  return [{ name: 'q', units: unitCounts(record).QK_UNITS, from, to: `${at}u + copy_row * ${stride}u` }];
}

/** Packed rows of dOut. */
export function gradientRows(record: OperandConstants, { at, stride }: Place, m: string): Copied[] {
  const from = `u.d_out_at + (head * u.sq * GROUP + min(${m} + copy_row, u.sq * GROUP - 1u)) * DV_UNITS`;
  return [{ name: 'd_out', units: unitCounts(record).DV_UNITS, from, to: `${at}u + copy_row * ${stride}u` }];
}

export function fetchRows(rows: Copied[], copiers = ROW_COPIERS): string {
  return rows
    .map(
      ({ name, units, from, load }) => `let ${name}_from = ${from};
${repeat(Math.ceil(units / copiers), (i) => {
  const unit = `copy_unit + ${i * copiers}u`;
  return `let ${name}_${i} = ${load ? load(unit) : `halves[${name}_from + ${unit}]`};`;
})}`,
    )
    .join('\n');
}

export function putRows(rows: Copied[], copiers = ROW_COPIERS): string {
  const putRow = ({ name, units, to }: Copied): string =>
    repeat(Math.ceil(units / copiers), (i) => {
      const put = `arena[${to} + copy_unit + ${i * copiers}u] = ${name}_${i};`;
      return (i + 1) * copiers <= units ? put : `if (copy_unit < ${units - i * copiers}u) { ${put} }`;
    });
  return rows.map(putRow).join('\n');
}

/** Both, where nothing else is to be done meanwhile. */
export function stageRows(rows: Copied[], copiers = ROW_COPIERS): string {
  return `${fetchRows(rows, copiers)}\n${putRows(rows, copiers)}`;
}

/** Units of `rows` staged rows that nothing is put into: 0 times them must be 0. */
export function clearPadding({ at, stride, low }: Place, rows: number, units: number): string {
  const padding = (low ?? stride - 1) - units;
  if (padding === 0) return '';
  const parts = low === undefined ? [at] : [at, at + low];
  return parts
    .map(
      (part) => `
  for (var e = tid; e < ${rows * padding}u; e += THREADS) {
    arena[${part}u + e / ${padding}u * ${stride}u + ${units}u + e % ${padding}u] = vec4u(0u);
  }`,
    )
    .join('');
}
