/** MLACacheAppend: copies new rows behind those that a cache holds, in its own buffer. One thread a number. */
import type { Binding } from './operands.js';
import { packNumbers } from './problemUniforms.js';
import { constants } from './wgsl.js';

const THREADS = 64;

export const copyBindings: Binding[] = [
  { name: 'rows', access: 'read' },
  { name: 'lengths', access: 'read' },
  { name: 'cache', access: 'write' },
];

export function mlaCacheAppendWgsl(): string {
  return `
${constants({ THREADS })}
struct Copy {
  batch: u32,
  rows: u32,
  columns: u32,
  capacity: u32,
}
@group(0) @binding(0) var<storage, read> rows: array<f32>;
// [2, batch]: rows in the cache before, rows to add
@group(0) @binding(1) var<storage, read> lengths: array<i32>;
@group(0) @binding(2) var<storage, read_write> cache: array<f32>;
@group(0) @binding(3) var<uniform> u: Copy;

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
  cache[target_row * u.columns + index % u.columns] = rows[index];
}
`;
}

export function copyGroups(numbers: number): number {
  return Math.ceil(numbers / THREADS);
}

export function copyUniforms(batch: number, rows: number, columns: number, capacity: number): ArrayBuffer {
  return packNumbers([
    ['u32', batch],
    ['u32', rows],
    ['u32', columns],
    ['u32', capacity],
  ]);
}
