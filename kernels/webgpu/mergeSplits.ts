/**
 * Joins what the splits of a forward found: out = Σ exp(lse_s − lse) · out_s, lse = ln Σ exp(lse_s).
 * Grid: rows (batch, head, position) × blocks of COLUMNS vec4 columns. A thread has a column and every PARTS-th split.
 */
import { readable, writable, constants } from './wgsl.js';
import { problemUniforms } from './problemUniforms.js';
import type { Binding } from './operands.js';

const THREADS = 128;

/** Room for the weights of a row. */
export const mostSplits = 128;

export const mergeBindings: Binding[] = [
  { name: 'out_parts', access: 'read' },
  { name: 'lse_parts', access: 'read' },
  { name: 'out', access: 'write' },
  { name: 'lse', access: 'write' },
];

/** Everything that is compiled into a merge. */
export interface MergeConstants {
  DV: number;
  /** threads that share a column: many where there are many splits to read */
  PARTS: number;
}

export function mergeConstants(dv: number, splits: number): MergeConstants {
  return { DV: dv, PARTS: splits > 8 ? 8 : 1 };
}

export function mergeGrid(rows: number, { DV, PARTS }: MergeConstants): [number, number, number] {
  return [rows, Math.ceil(DV / 4 / (THREADS / PARTS)), 1];
}

export function mergeSplitsWgsl({ DV, PARTS }: MergeConstants): string {
  const width = DV % 4 === 0 ? 'vec4' : 'scalar';
  return `
${constants({ DV, DV4: Math.ceil(DV / 4), COLUMNS: THREADS / PARTS, PARTS, THREADS })}
// of the splits, and what the threads of a column have found
var<workgroup> weights: array<f32, ${mostSplits}>;
var<workgroup> sums: array<vec4f, THREADS>;
${problemUniforms(mergeBindings.length)}
${readable('out_parts', 0, width)}
@group(0) @binding(1) var<storage, read> lse_parts: array<f32>;
${writable('out', 2, width)}
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

// below every lse of a row that has seen a key
const LEAST = -1e30;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) tid: u32) {
  let row = group.x;
  let rows = u.batch * u.hq * u.sq;
  for (var s = tid; s < u.splits; s += THREADS) { weights[s] = lse_parts[s * rows + row]; }
  workgroupBarrier();
  var row_max = LEAST;
  for (var s = 0u; s < u.splits; s++) { row_max = max(row_max, weights[s]); }
  let is_empty = row_max == LEAST;

  let c = group.y * COLUMNS + tid % COLUMNS;
  let start = out_start(row);
  var total = 0.0;
  var sum = vec4f(0.0);
  for (var s = tid / COLUMNS; s < u.splits; s += PARTS) {
    let weight = exp(weights[s] - row_max);
    total += weight;
    if (c < DV4) { sum += weight * out_parts_load(s * rows * DV + start, c, DV); }
  }
  sums[tid] = sum;
  workgroupBarrier();
  for (var part = PARTS / 2u; part > 0u; part /= 2u) {
    if (tid < part * COLUMNS) { sums[tid] += sums[tid + part * COLUMNS]; }
    workgroupBarrier();
  }
  // every column has the same total: the threads of its parts add theirs in the place of the weights
  if (tid % COLUMNS == 0u) { weights[tid / COLUMNS] = total; }
  workgroupBarrier();
  total = 0.0;
  for (var part = 0u; part < PARTS; part++) { total += weights[part]; }
  if (tid == 0u && group.y == 0u) { lse[row] = select(row_max + log(total), u.minus_infinity, is_empty); }
  if (tid < COLUMNS && c < DV4) { out_store(start, c, DV, select(sums[tid] / total, vec4f(0.0), is_empty)); }
}

fn out_start(row: u32) -> u32 {
  return (row / (u.hq * u.sq)) * u.out_b + (row / u.sq % u.hq) * u.out_h + (row % u.sq) * u.out_s;
}
`;
}
