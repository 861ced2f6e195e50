/**
 * Joins what the splits of a forward found: out = Σ exp(lse_s − lse) · out_s, lse = ln Σ exp(lse_s).
 * Grid: rows (batch, head, position) × blocks of THREADS columns, a thread a column.
 */
import { problemUniforms } from './problemUniforms.js';
import type { Binding } from './operands.js';
import { constants } from './wgsl.js';

const THREADS = 64;

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
}

export function mergeGrid(rows: number, dv: number): [number, number, number] {
  return [rows, Math.ceil(dv / THREADS), 1];
}

export function mergeSplitsWgsl({ DV }: MergeConstants): string {
  return `
${constants({ DV, THREADS })}
var<workgroup> weights: array<f32, ${mostSplits}>;
${problemUniforms(mergeBindings.length)}
@group(0) @binding(0) var<storage, read> out_parts: array<f32>;
@group(0) @binding(1) var<storage, read> lse_parts: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;
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
  var total = 0.0;
  for (var s = 0u; s < u.splits; s++) { total += exp(weights[s] - row_max); }
  let is_empty = row_max == LEAST;
  if (tid == 0u && group.y == 0u) { lse[row] = select(row_max + log(total), u.minus_infinity, is_empty); }

  let c = group.y * THREADS + tid;
  if (c >= DV) { return; }
  let part_size = rows * DV;
  let start = out_start(row) + c;
  var sum = 0.0;
  for (var s = 0u; s < u.splits; s++) {
    sum += exp(weights[s] - row_max) * out_parts[s * part_size + start];
  }
  out[start] = select(sum / total, 0.0, is_empty);
}

fn out_start(row: u32) -> u32 {
  return (row / (u.hq * u.sq)) * u.out_b + (row / u.sq % u.hq) * u.out_h + (row % u.sq) * u.out_s;
}
`;
}
