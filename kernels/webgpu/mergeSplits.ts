/**
 * Joins what the splits of a forward found: out = Σ exp(lse_s − lse) · out_s, lse = ln Σ exp(lse_s).
 * Grid: rows (batch, head, position) × blocks of COLUMNS vec4 columns. A thread has a column and every PARTS-th split, up
 * to OWN of them; it asks for all of those at once, before it knows their weights.
 */
import { readable, writable, constants, repeat } from './wgsl.js';
import { problemUniforms } from './problemUniforms.js';
import type { Cut } from './problemUniforms.js';
import type { Binding } from './operands.js';

const THREADS = 128;

/** A thread looks after the weight of one. */
export const mostSplits = THREADS;

export const mergeBindings: Binding[] = [
  { name: 'out_parts', access: 'read' },
  { name: 'lse_parts', access: 'read' },
  { name: 'out', access: 'write' },
  { name: 'lse', access: 'write' },
];

/** Everything that is compiled into a merge. */
export interface MergeConstants {
  DV: number;
  /** threads that share a column, a power of two; and splits that each of them adds */
  PARTS: number;
  OWN: number;
  /** 1 if the splits have written halves */
  HALVES: number;
}

export function mergeConstants(dv: number, { splits, hasHalfParts }: Cut): MergeConstants {
  const OWN = splits <= 4 ? 4 : 16;
  const PARTS = 2 ** Math.ceil(Math.log2(Math.ceil(splits / OWN)));
  return { DV: dv, PARTS, OWN, HALVES: hasHalfParts ? 1 : 0 };
}

export function mergeGrid(rows: number, { DV, PARTS }: MergeConstants): [number, number, number] {
  return [rows, Math.ceil(DV / 4 / (THREADS / PARTS)), 1];
}

export function mergeSplitsWgsl({ DV, PARTS, OWN, HALVES }: MergeConstants): string {
  const width = DV % 4 === 0 ? 'vec4' : 'scalar';
  return `
${constants({ DV, DV4: Math.ceil(DV / 4), COLUMNS: THREADS / PARTS, PARTS, THREADS })}
// lse of the splits, and what the threads of a column have found
var<workgroup> lse_of_splits: array<vec4f, THREADS / 4u>;
var<workgroup> sums: array<vec4f, THREADS>;
var<workgroup> totals: array<f32, THREADS>;
${problemUniforms(mergeBindings.length)}
${readable('out_parts', 0, HALVES ? 'halves' : width)}
@group(0) @binding(1) var<storage, read> lse_parts: array<f32>;
${writable('out', 2, width)}
@group(0) @binding(3) var<storage, read_write> lse: array<f32>;

// below every lse of a row that has seen a key
const LEAST = -1e30;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) tid: u32) {
  let row = group.x;
  let rows = u.batch * u.hq * u.sq;
  let c = group.y * COLUMNS + tid % COLUMNS;
  let start = out_start(row);
  let first = tid / COLUMNS;
  ${repeat(
    OWN,
    (i) => `
  let split${i} = first + ${i}u * PARTS;
  let part${i} = out_parts_load(min(split${i}, u.splits - 1u) * rows * DV + start, min(c, DV4 - 1u), DV);`,
  )}
  lse_of_splits[tid / 4u][tid % 4u] = select(LEAST, lse_parts[min(tid, u.splits - 1u) * rows + row], tid < u.splits);
  workgroupBarrier();
  var most = vec4f(LEAST);
  for (var i = 0u; 4u * i < u.splits; i++) { most = max(most, lse_of_splits[i]); }
  let row_max = max(max(most.x, most.y), max(most.z, most.w));
  let is_empty = row_max == LEAST;

  var total = 0.0;
  var sum = vec4f(0.0);
  ${repeat(
    OWN,
    (i) => `
  let weight${i} = select(0.0, exp(lse_of_splits[split${i} / 4u][split${i} % 4u] - row_max), split${i} < u.splits);
  total += weight${i};
  sum += select(vec4f(0.0), weight${i} * part${i}, weight${i} > 0.0);`,
  )}
  sums[tid] = sum;
  totals[tid] = total;
  workgroupBarrier();
  for (var part = PARTS / 2u; part > 0u; part /= 2u) {
    if (tid < part * COLUMNS) {
      sums[tid] += sums[tid + part * COLUMNS];
      totals[tid] += totals[tid + part * COLUMNS];
    }
    workgroupBarrier();
  }
  if (tid == 0u && group.y == 0u) { lse[row] = select(row_max + log(totals[0]), u.minus_infinity, is_empty); }
  if (tid < COLUMNS && c < DV4) {
    out_store(start, c, DV, select(sums[tid] / totals[tid], vec4f(0.0), is_empty));
  }
}

fn out_start(row: u32) -> u32 {
  return (row / (u.hq * u.sq)) * u.out_b + (row / u.sq % u.hq) * u.out_h + (row % u.sq) * u.out_s;
}
`;
}
