/**
 * Joins what the splits of a forward found: out = Σ exp(lse_s − lse) · out_s, lse = ln Σ exp(lse_s).
 * Grid: one workgroup per row (batch, head, position); its threads share the columns.
 */
import { problemUniforms } from './problemUniforms.js';
import type { Binding } from './operands.js';
import { constants } from './wgsl.js';

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

export function mergeSplitsWgsl({ DV }: MergeConstants): string {
  return `
${constants({ DV, THREADS: 64 })}
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
  var row_max = LEAST;
  for (var s = 0u; s < u.splits; s++) { row_max = max(row_max, lse_parts[s * rows + row]); }
  var total = 0.0;
  for (var s = 0u; s < u.splits; s++) { total += exp(lse_parts[s * rows + row] - row_max); }
  let row_lse = row_max + log(total);
  let is_empty = row_max == LEAST;
  if (tid == 0u) { lse[row] = select(row_lse, u.minus_infinity, is_empty); }

  let start = (row / (u.hq * u.sq)) * u.out_b + (row / u.sq % u.hq) * u.out_h + (row % u.sq) * u.out_s;
  for (var c = tid; c < DV; c += THREADS) {
    var sum = 0.0;
    for (var s = 0u; s < u.splits; s++) {
      sum += exp(lse_parts[s * rows + row] - row_lse) * out_parts[s * rows * DV + start + c];
    }
    out[start + c] = select(sum, 0.0, is_empty);
  }
}
`;
}
