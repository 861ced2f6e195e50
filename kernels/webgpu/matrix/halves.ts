/**
 * The operands of MLAAttention as halves, in rows of units: what the shaders on subgroup matrices stage. One dispatch converts
 * whatever layout the tensors have, so that the main shaders know none. Of MLADecode only what its backward reads of the
 * rows: the cache is read as it is (cacheRows.ts).
 *
 * Regions of one buffer, each [batch, head of its own, row, units]: k [b, hkv, skv, DN_UNITS], k_rope [b, skv, DR_UNITS],
 * v [b, hkv, skv, DV_UNITS]; for the backward also q [b, hkv, sq · GROUP, DN_UNITS + DR_UNITS] and d_out [b, hkv, sq · GROUP, DV_UNITS].
 * The rope part starts on a unit of its own; what is past a row's columns, or past the lengths, is 0.
 */
import type { MlaProblem } from '../../../src/core/problem.js';
import { dOutColumn } from '../mlaAttentionDq.js';
import {
  declareLengths,
  declareRows,
  keyColumns,
  operandBindings,
  operandSizes,
  queryColumns,
  tileRows,
  valueColumns,
  widthOf,
} from '../operands.js';
import type { Binding, OperandConstants } from '../operands.js';
import { readStats } from '../packStats.js';
import { problemUniforms } from '../problemUniforms.js';
import type { Region } from '../problemUniforms.js';
import { constants } from '../wgsl.js';
import { sixteen, unitCounts } from './form.js';
import { gradientScales, maximaBinding } from './gradientScales.js';
import { operandScales } from './operandScales.js';
import { halvesOf, splitHalvesOf } from './wgsl.js';

const THREADS = 256;
/** Rows of one workgroup. */
const PACKED_ROWS = 32;

export interface HalvesConstants extends OperandConstants {
  HAS_Q_LENGTHS: number;
  HAS_KV_LENGTHS: number;
  /** 1: also what the backward reads, dOut scaled into the range of halves */
  IS_BACKWARD: number;
  /** 2: numbers of the forward are scaled, and split in two halves: a row has the high ones, then the low ones */
  PARTS: number;
}

export function halvesBindings(record: HalvesConstants): Binding[] {
  const { IS_BACKWARD, IS_DECODE, PARTS, HAS_Q_LENGTHS, HAS_KV_LENGTHS } = record;
  const operands = operandBindings(record).filter(({ name }) =>
    name.startsWith('q') ? IS_BACKWARD : !IS_DECODE,
  );
  const rest: string[] = [];
  if (IS_BACKWARD) rest.push('d_out', 'stats', 'maxima');
  else if (HAS_Q_LENGTHS) rest.push('q_lengths');
  if (!IS_BACKWARD && HAS_KV_LENGTHS) rest.push('kv_lengths');
  if (PARTS === 2) rest.push('maxima');
  return [
    ...operands,
    ...rest.map((name): Binding => ({ name, access: 'read' })),
    { name: 'halves', access: 'write' },
  ];
}

/** Where each region begins, in units, and how many units there are in all. */
export function regionsOf(
  { op, b, hkv, sq, skv, hq, dn, dr, dv }: MlaProblem,
  isBackward: boolean,
  parts = 1,
): { regions: Partial<Record<Region, number>>; units: number } {
  const { DN_UNITS, DR_UNITS, QK_UNITS, DV_UNITS } = unitCounts({ DN: dn, DR: dr, DV: dv });
  const sizes: [Region, number][] = [];
  if (op === 'mlaAttention') {
    sizes.push(
      ['k', b * hkv * skv * DN_UNITS],
      ['k_rope', b * skv * DR_UNITS],
      ['v', b * hkv * skv * DV_UNITS],
    );
  }
  if (isBackward) sizes.push(['q', b * hq * sq * QK_UNITS], ['d_out', b * hq * sq * DV_UNITS]);
  const regions: Partial<Record<Region, number>> = {};
  let units = 0;
  for (const [region, size] of sizes) {
    regions[region] = units;
    units += parts * size;
  }
  return { regions, units };
}

export function halvesGrid(
  { op, b, hkv, hq, sq, skv }: MlaProblem,
  isBackward: boolean,
): [number, number, number] {
  const keys = op === 'mlaAttention' ? skv : 0;
  const rows = isBackward ? (sq * hq) / Math.max(1, hkv) : 0;
  return [Math.ceil(Math.max(keys, rows) / PACKED_ROWS), hkv, b];
}

export function packHalvesWgsl(record: HalvesConstants): string {
  const { IS_BACKWARD, IS_DECODE, PARTS } = record;
  const bindings = halvesBindings(record);
  const apart = ['stats', 'maxima', 'q_lengths', 'kv_lengths', 'halves'];
  const rows = bindings.map(({ name }) => name).filter((name) => !apart.includes(name));
  const halves = bindings.findIndex(({ name }) => name === 'halves');
  return `
${operandColumnsOf(record)}
${problemUniforms(bindings.length)}
${declareRows(bindings, rows, widthOf(record))}
${
  IS_BACKWARD
    ? readStats(
        bindings.findIndex(({ name }) => name === 'stats'),
        'read',
      )
    : declareLengths(bindings)
}
${IS_BACKWARD ? gradientScales(maximaBinding(bindings), THREADS) : ''}
${PARTS === 2 ? operandScales(maximaBinding(bindings), THREADS) : ''}
@group(0) @binding(${halves}) var<storage, read_write> halves: array<vec4u>;
${constants({ ...unitCounts(record), THREADS, PACKED_ROWS })}
${PARTS === 2 ? splitHalvesOf : halvesOf}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) tid: u32) {
  let batch = group.z;
  ${IS_BACKWARD ? 'let lengths = lengths_of(batch);' : 'let lengths = vec2u(q_lengths_of(batch, u.sq), kv_lengths_of(batch, u.skv));'}
  let tile = Tile(batch, group.y, lengths.x, lengths.y);
  let head = batch * u.hkv + group.y;
  let first = group.x * PACKED_ROWS;

  ${PARTS === 2 ? 'let scales = operand_scales(tid);' : ''}
  ${IS_DECODE ? '' : packKeys(record)}
  ${IS_BACKWARD ? packRows(record) : ''}
}
${IS_BACKWARD ? queryUnits(record) : ''}
${IS_DECODE ? '' : nopeOfKey}
`;
}

function operandColumnsOf(record: HalvesConstants): string {
  const columns = [operandSizes(record), tileRows];
  if (!record.IS_DECODE) columns.push(keyColumns(record), valueColumns(record));
  if (record.IS_BACKWARD) columns.push(queryColumns(record), dOutColumn);
  return columns.join('\n');
}

function packKeys(record: HalvesConstants): string {
  const { DN, DR } = record;
  return `${DN > 0 ? packNope(record) : ''}
  ${DR > 0 ? packRope(record) : ''}
  ${packValues(record)}`;
}

const nopeOfKey = `
fn nope_of_k(tile: Tile, j: u32, c: u32) -> vec4f {
  if (c >= DN4) { return vec4f(0.0); }
  return k_column(tile, j, c);
}`;

/** Writes a unit of a row, both of its parts where there are two; `at` is WGSL for the row's number in its region. */
function putUnit(
  { PARTS }: HalvesConstants,
  region: string,
  at: string,
  units: string,
  unit: string,
  [a, b]: string[],
  scale: string,
): string {
  if (PARTS === 1) return `halves[${region} + (${at}) * ${units} + ${unit}] = halves_of(${a}, ${b});`;
  return `
      let at = ${region} + (${at}) * 2u * ${units} + ${unit};
      let a = ${a} * ${scale};
      let b = ${b} * ${scale};
      halves[at] = high_halves(a, b);
      halves[at + ${units}] = low_halves(a, b);`;
}

function packNope(record: HalvesConstants): string {
  const columns = ['nope_of_k(tile, j, 2u * unit)', 'nope_of_k(tile, j, 2u * unit + 1u)'];
  return `
  for (var e = tid; e < PACKED_ROWS * DN_UNITS; e += THREADS) {
    let j = first + e / DN_UNITS;
    let unit = e % DN_UNITS;
    if (j < u.skv) {
      ${putUnit(record, 'u.k_at', 'head * u.skv + j', 'DN_UNITS', 'unit', columns, 'scales.k')}
    }
  }`;
}

/** Once for all heads. */
function packRope(record: HalvesConstants): string {
  const columns = ['k_column(tile, j, c)', 'k_column(tile, j, c + 1u)'];
  return `
  for (var e = tid; e < PACKED_ROWS * DR_UNITS; e += THREADS) {
    let j = first + e / DR_UNITS;
    let c = DN4 + 2u * (e % DR_UNITS);
    if (j < u.skv && group.y == 0u) {
      ${putUnit(record, 'u.k_rope_at', 'batch * u.skv + j', 'DR_UNITS', 'e % DR_UNITS', columns, 'scales.k')}
    }
  }`;
}

function packValues(record: HalvesConstants): string {
  const columns = ['v_column(tile, j, c)', 'v_column(tile, j, c + 1u)'];
  return `
  for (var e = tid; e < PACKED_ROWS * DV_UNITS; e += THREADS) {
    let j = first + e / DV_UNITS;
    let c = 2u * (e % DV_UNITS);
    if (j < u.skv) {
      ${putUnit(record, 'u.v_at', 'head * u.skv + j', 'DV_UNITS', 'e % DV_UNITS', columns, 'scales.v')}
    }
  }`;
}

function packRows({ DN, DR }: HalvesConstants): string {
  const nope = 'packed = q_nope_unit(tile, m, unit);';
  const rope = 'packed = q_rope_unit(tile, m, unit - DN_UNITS);';
  const unit = DR === 0 ? nope : DN === 0 ? rope : `if (unit < DN_UNITS) { ${nope} } else { ${rope} }`;
  return `
  let rows = u.sq * GROUP;
  for (var e = tid; e < PACKED_ROWS * QK_UNITS; e += THREADS) {
    let m = first + e / QK_UNITS;
    let unit = e % QK_UNITS;
    if (m < rows) {
      var packed = vec4u(0u);
      if (m < tile.q_length * GROUP) { ${unit} }
      halves[u.q_at + (head * rows + m) * QK_UNITS + unit] = packed;
    }
  }
  let scale = gradient_scales(tid).d_out;
  for (var e = tid; e < PACKED_ROWS * DV_UNITS; e += THREADS) {
    let m = first + e / DV_UNITS;
    let c = 2u * (e % DV_UNITS);
    if (m < rows) {
      halves[u.d_out_at + (head * rows + m) * DV_UNITS + e % DV_UNITS] = halves_of(d_out_column(tile, m, c) * scale, d_out_column(tile, m, c + 1u) * scale);
    }
  }`;
}

/**
 * `q_nope_unit(tile, m, unit)`, `q_rope_unit(tile, m, unit)`: a unit of a row of queries, signed by the scale, so that
 * a larger product is always a larger score. Of split numbers also `q_nope_unit_low`, `q_rope_unit_low`; `query_scale`
 * is set before.
 */
export function queryUnits({ DR, IS_DECODE }: OperandConstants, form = sixteen): string {
  const isFloats = form.operand === 'f32';
  const names = form.parts === 1 ? [''] : ['', '_low'];
  const unit = (name: string, columns: string): string =>
    names
      .map(
        (part) => `
fn ${name}${part}(tile: Tile, m: u32, unit: u32) -> vec4u {
  return ${
    isFloats
      ? `signed_floats(${columns}(tile, m, unit))`
      : `signed_halves${part}(${columns}(tile, m, 2u * unit), ${columns}(tile, m, 2u * unit + 1u))`
  };
}`,
      )
      .join('\n');
  return `
${isFloats ? signedFloats : form.parts === 1 ? signedHalves : signedSplitHalves}

fn q_nope_column(tile: Tile, m: u32, c: u32) -> vec4f {
  if (c >= DN4) { return vec4f(0.0); }
  return q_load(q_start(tile, m), c, DN);
}
${unit('q_nope_unit', 'q_nope_column')}
${DR > 0 ? ropePart(IS_DECODE) + unit('q_rope_unit', 'q_rope_part') : ''}`;
}

const signedHalves = `
fn signed_halves(a: vec4f, b: vec4f) -> vec4u {
  let sign_of_scale = select(-1.0, 1.0, u.scale >= 0.0);
  return halves_of(a * sign_of_scale, b * sign_of_scale);
}`;

const signedFloats = `
fn signed_floats(a: vec4f) -> vec4u {
  return bitcast<vec4u>(select(-a, a, u.scale >= 0.0));
}`;

const signedSplitHalves = `
var<private> query_scale: f32;

fn signed_halves(a: vec4f, b: vec4f) -> vec4u {
  return high_halves(a * query_scale, b * query_scale);
}

fn signed_halves_low(a: vec4f, b: vec4f) -> vec4u {
  return low_halves(a * query_scale, b * query_scale);
}`;

function ropePart(isDecode: number): string {
  return `
fn q_rope_part(tile: Tile, m: u32, c: u32) -> vec4f {
  if (c >= DR4) { return vec4f(0.0); }
  return ${isDecode ? 'q_rope_load(q_rope_start(tile, m), c, DR)' : 'q_load(q_start(tile, m) + DN, c, DR)'};
}
`;
}
