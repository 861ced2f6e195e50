/** MLACacheAppend: writes new rows behind those that a cache holds, in its own buffer. One thread a word. */
import type { Binding } from './operands.js';
import { packNumbers } from './problemUniforms.js';
import { constants } from './wgsl.js';

const THREADS = 64;

/** All that is compiled in. */
export interface CopyConstants {
  /** 1 if the cache holds float16, two to a word, else 0: float32 */
  IS_PACKED: number;
}

export const copyBindings: Binding[] = [
  { name: 'rows', access: 'read' },
  { name: 'lengths', access: 'read' },
  { name: 'cache', access: 'write' },
];

export function mlaCacheAppendWgsl({ IS_PACKED }: CopyConstants): string {
  return `
${constants({ THREADS })}
struct Copy {
  batch: u32,
  rows: u32,
  // words a row of the cache
  columns: u32,
  capacity: u32,
}
@group(0) @binding(0) var<storage, read> rows: array<u32>;
// [2, batch]: rows in the cache before, rows to add
@group(0) @binding(1) var<storage, read> lengths: array<i32>;
@group(0) @binding(2) var<storage, read_write> cache: array<u32>;
@group(0) @binding(3) var<uniform> u: Copy;
${IS_PACKED ? packedWord : floatWord}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) tid: u32) {
  let index = (group.y * groups.x + group.x) * THREADS + tid;
  let row = index / u.columns % u.rows;
  let batch = index / (u.columns * u.rows);
  if (batch >= u.batch || i32(row) >= lengths[u.batch + batch]) { return; }
  let target_row = batch * u.capacity + u32(lengths[batch]) + row;
  cache[target_row * u.columns + index % u.columns] = word(index);
}
`;
}

const floatWord = `
fn word(index: u32) -> u32 { return rows[index]; }`;

/**
 * src/core/float16.ts in WGSL. By integers, so that all devices write the same bits: WGSL leaves it to them how
 * pack2x16float rounds, and what becomes of NaN and of numbers below 2^-14.
 */
const packedWord = `
fn word(index: u32) -> u32 {
  return float16_bits(rows[2u * index]) | (float16_bits(rows[2u * index + 1u]) << 16u);
}

fn float16_bits(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u; }
  if (magnitude == 0x7f800000u) { return sign | 0x7c00u; }
  if (magnitude >= 0x477fe000u) { return sign | 0x7bffu; }
  if (magnitude >= 0x38800000u) { return sign | shift_rounded(magnitude - 0x38000000u, 13u); }
  let shift = 126u - (magnitude >> 23u);
  if (shift > 24u) { return sign; }
  return sign | shift_rounded((magnitude & 0x7fffffu) | 0x800000u, shift);
}

fn shift_rounded(x: u32, shift: u32) -> u32 {
  return (x + (1u << (shift - 1u)) - 1u + ((x >> shift) & 1u)) >> shift;
}`;

export function copyGroups(words: number): number {
  return Math.ceil(words / THREADS);
}

export function copyUniforms(batch: number, rows: number, columns: number, capacity: number): ArrayBuffer {
  return packNumbers([
    ['u32', batch],
    ['u32', rows],
    ['u32', columns],
    ['u32', capacity],
  ]);
}
