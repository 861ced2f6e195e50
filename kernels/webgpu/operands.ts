/**
 * The operands of both ops as the shaders see them: rows of vec4 columns, whatever the layout, the number of heads,
 * and whether the rope part lies in the same tensor.
 *
 * Rows of the query heads that share a key/value head are packed: row m of a (batch, key/value head) is position
 * m / GROUP of query head kv_head · GROUP + m % GROUP. So one tile of keys serves all of them.
 */
import type { MlaProblem } from '../../src/core/problem.js';
import { constants, lengthsOf, readable, writable } from './wgsl.js';

/** What of the problem is compiled in. Lengths and strides are not. */
export interface OperandConstants {
  GROUP: number;
  DN: number;
  DR: number;
  DV: number;
  /** 1 if every row starts and ends on a vec4 */
  IS_VEC4: number;
  /** 1 for MLADecode: the rope part of q is a tensor of its own, and v is k */
  IS_DECODE: number;
  /** 1 if k and its rope part are a cache of float16, two to a word */
  IS_PACKED: number;
}

export function operandConstants({ op, cacheFormat, hq, hkv, dn, dr, dv }: MlaProblem): OperandConstants {
  return {
    GROUP: hkv === 0 ? 1 : Math.max(hq / hkv, 1),
    DN: dn,
    DR: dr,
    DV: dv,
    IS_VEC4: [dn, dr, dv].every((columns) => columns % 4 === 0) ? 1 : 0,
    IS_DECODE: op === 'mlaDecode' ? 1 : 0,
    IS_PACKED: cacheFormat === 'float16' ? 1 : 0,
  };
}

/** vec4 columns of each part; the rope part starts on a vec4 of its own. */
export function columnCounts({ DN, DR, DV }: { DN: number; DR: number; DV: number }): {
  DN4: number;
  DR4: number;
  QK4: number;
  DV4: number;
} {
  const DN4 = Math.ceil(DN / 4);
  const DR4 = Math.ceil(DR / 4);
  return { DN4, DR4, QK4: DN4 + DR4, DV4: Math.ceil(DV / 4) };
}

/** Of all rows but those of a packed cache. */
export function widthOf({ IS_VEC4 }: OperandConstants): 'vec4' | 'scalar' {
  return IS_VEC4 ? 'vec4' : 'scalar';
}

/** A named binding of a shader; the kernel hands over a tensor for each, in this order. */
export interface Binding {
  name: string;
  access: 'read' | 'write';
  /** rows of float16, two to a word */
  isPacked?: boolean;
}

/** The tensors that q, k and v are read from. */
export function operandBindings({ DR, IS_DECODE, IS_PACKED }: OperandConstants): Binding[] {
  const names = ['q'];
  if (IS_DECODE && DR > 0) names.push('q_rope');
  names.push('k');
  if (!IS_DECODE) names.push('v');
  if (DR > 0) names.push('k_rope');
  const isPacked = (name: string): boolean => IS_PACKED === 1 && (name === 'k' || name === 'k_rope');
  return names.map((name) => ({ name, access: 'read', isPacked: isPacked(name) }));
}

/** Declares bindings that are read or written in vec4 columns. */
export function declareRows(all: Binding[], names: string[], width: 'vec4' | 'scalar'): string {
  return names
    .map((name) => {
      const binding = all.findIndex((candidate) => candidate.name === name);
      const { access, isPacked } = all[binding];
      if (access === 'write') return writable(name, binding, width);
      return readable(name, binding, isPacked ? 'halves' : width);
    })
    .join('\n');
}

/** Declares q_lengths_of(batch, size) and kv_lengths_of(batch, size), bound or not. */
export function declareLengths(all: Binding[]): string {
  return ['q_lengths', 'kv_lengths']
    .map((name) => {
      const binding = all.findIndex((candidate) => candidate.name === name);
      return lengthsOf(name, binding < 0 ? undefined : binding);
    })
    .join('\n');
}

/** A (batch, key/value head), the rows and keys that it has, and where its outputs lie. */
export const tileRows = `
// A (batch, key/value head), and how many of its rows and keys exist.
struct Tile {
  batch: u32,
  kv_head: u32,
  q_length: u32,
  kv_length: u32,
}

fn head_of(tile: Tile, m: u32) -> u32 {
  return tile.kv_head * GROUP + m % GROUP;
}

fn out_start(tile: Tile, m: u32) -> u32 {
  return tile.batch * u.out_b + (m / GROUP) * u.out_s + head_of(tile, m) * u.out_h;
}`;

/** `q_start(tile, m)`: where a packed row begins in q, and in dQ. */
export const queryStart = `
fn q_start(tile: Tile, m: u32) -> u32 {
  return tile.batch * u.q_b + (m / GROUP) * u.q_s + head_of(tile, m) * u.q_h;
}`;

/** Likewise of the rope part, where it is a tensor of its own. */
export const queryRopeStart = `
fn q_rope_start(tile: Tile, m: u32) -> u32 {
  return tile.batch * u.q_rope_b + (m / GROUP) * u.q_rope_s + head_of(tile, m) * u.q_rope_h;
}`;

/** `q_column(tile, m, c)`: column c of a row of queries, 0 where the row or the column does not exist. */
export function queryColumns({ DR, IS_DECODE }: OperandConstants): string {
  return `
${queryStart}

${DR === 0 ? '' : IS_DECODE ? ropeOfQApart : ropeOfQInside}

fn q_column(tile: Tile, m: u32, c: u32) -> vec4f {
  if (m >= tile.q_length * GROUP || c >= QK4) { return vec4f(0.0); }
  ${DR > 0 ? `if (c >= DN4) { return q_rope_column(tile, m, c - DN4); }` : ''}
  return q_load(q_start(tile, m), c, DN);
}`;
}

/** `k_column(tile, j, c)`: likewise, of keys. */
export function keyColumns({ DR }: OperandConstants): string {
  return `
fn k_start(tile: Tile, j: u32) -> u32 {
  return tile.batch * u.k_b + j * u.k_s + tile.kv_head * u.k_h;
}

fn k_rope_start(tile: Tile, j: u32) -> u32 {
  return tile.batch * u.k_rope_b + j * u.k_rope_s;
}

fn k_column(tile: Tile, j: u32, c: u32) -> vec4f {
  if (j >= tile.kv_length || c >= QK4) { return vec4f(0.0); }
  ${DR > 0 ? `if (c >= DN4) { return k_rope_load(k_rope_start(tile, j), c - DN4, DR); }` : ''}
  return k_load(k_start(tile, j), c, DN);
}`;
}

/** `v_column(tile, j, c)`: likewise, of values, which in MLADecode are the keys' first columns. */
export function valueColumns({ IS_DECODE }: OperandConstants): string {
  return `
fn v_start(tile: Tile, j: u32) -> u32 {
  return tile.batch * u.v_b + j * u.v_s + tile.kv_head * u.v_h;
}

fn v_column(tile: Tile, j: u32, c: u32) -> vec4f {
  if (j >= tile.kv_length || c >= DV4) { return vec4f(0.0); }
  return ${IS_DECODE ? 'k' : 'v'}_load(v_start(tile, j), c, DV);
}`;
}

/** The sizes that the functions of this file are written with. */
export function operandSizes(record: OperandConstants): string {
  const { GROUP, DN, DR, DV } = record;
  return constants({ GROUP, DN, DR, DV, ...columnCounts(record) });
}

/** All of it: rows of queries, keys and values, and which key a row sees. */
export function operandColumns(record: OperandConstants): string {
  const columns = [queryColumns(record), keyColumns(record), valueColumns(record)];
  return [operandSizes(record), tileRows, ...columns, visibility].join('\n');
}

const ropeOfQInside = `
fn q_rope_column(tile: Tile, m: u32, c: u32) -> vec4f {
  return q_load(q_start(tile, m) + DN, c, DR);
}`;

const ropeOfQApart = `${queryRopeStart}

fn q_rope_column(tile: Tile, m: u32, c: u32) -> vec4f {
  return q_rope_load(q_rope_start(tile, m), c, DR);
}`;

/** Which keys a row sees, as src/core/visibility.ts has it. */
export const visibility = `
fn first_diagonal(tile: Tile) -> i32 {
  return select(i32(tile.kv_length) - i32(tile.q_length), 0, u.is_top_left == 1u);
}

// Position i sees keys from band_lo to band_hi (excluded); none if they cross.
fn band_lo(tile: Tile, i: u32) -> i32 {
  return max(0, i32(i) + first_diagonal(tile) - u.left);
}

fn band_hi(tile: Tile, i: u32) -> i32 {
  return min(i32(tile.kv_length), i32(i) + first_diagonal(tile) + u.right + 1);
}

fn sees(tile: Tile, m: u32, j: u32) -> bool {
  let i = m / GROUP;
  return i < tile.q_length && i32(j) >= band_lo(tile, i) && i32(j) < band_hi(tile, i);
}

fn sees_four_keys(tile: Tile, m: u32, j: u32) -> vec4<bool> {
  return vec4<bool>(sees(tile, m, j), sees(tile, m, j + 1u), sees(tile, m, j + 2u), sees(tile, m, j + 3u));
}

fn four_rows_see(tile: Tile, m: u32, j: u32) -> vec4<bool> {
  return vec4<bool>(sees(tile, m, j), sees(tile, m + 1u, j), sees(tile, m + 2u, j), sees(tile, m + 3u, j));
}

// Whether each of the rows from m on sees each of the keys from j on.
fn all_see(tile: Tile, m: u32, rows: u32, j: u32, keys: u32) -> bool {
  return m + rows <= tile.q_length * GROUP
    && i32(j) >= band_lo(tile, (m + rows - 1u) / GROUP)
    && i32(j + keys) <= band_hi(tile, m / GROUP);
}

// The keys that at least one of the rows from m on sees.
fn keys_of_rows(tile: Tile, m: u32, rows: u32) -> vec2u {
  let end = min(m + rows, tile.q_length * GROUP);
  if (m >= end) { return vec2u(0u); }
  let lo = band_lo(tile, m / GROUP);
  let hi = band_hi(tile, (end - 1u) / GROUP);
  return select(vec2u(0u), vec2u(u32(lo), u32(max(hi, 0))), hi > lo);
}

// The rows that see at least one of the keys from j on: the same band, read by columns.
fn rows_of_keys(tile: Tile, j: u32, keys: u32) -> vec2u {
  let end = min(j + keys, tile.kv_length);
  if (j >= end) { return vec2u(0u); }
  let lo = max(0, i32(j) - first_diagonal(tile) - u.right);
  let hi = min(i32(tile.q_length), i32(end) - first_diagonal(tile) + u.left);
  return select(vec2u(0u), vec2u(u32(lo), u32(max(hi, 0))) * GROUP, hi > lo);
}`;
