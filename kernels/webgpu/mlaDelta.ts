/** MLADelta, B1 of gradients/README.md: delta = rowsum(dOut · out) − dLse. Eight threads a row. */
import type { Binding } from './operands.js';
import { declareRows } from './operands.js';
import { problemUniforms } from './problemUniforms.js';
import { constants } from './wgsl.js';

const THREADS = 64;
const ROW_THREADS = 8;

export interface DeltaConstants {
  DV: number;
  IS_VEC4: number;
  HAS_D_LSE: number;
}

export function deltaBindings({ HAS_D_LSE }: DeltaConstants): Binding[] {
  const names = HAS_D_LSE ? ['out', 'd_out', 'd_lse'] : ['out', 'd_out'];
  return [...names.map((name): Binding => ({ name, access: 'read' })), { name: 'delta', access: 'write' }];
}

export function deltaGroups(rows: number): number {
  return Math.ceil((rows * ROW_THREADS) / THREADS);
}

export function mlaDeltaWgsl(record: DeltaConstants): string {
  const { DV, IS_VEC4, HAS_D_LSE } = record;
  const bindings = deltaBindings(record);
  const delta = bindings.length - 1;
  return `
${constants({ DV, DV4: Math.ceil(DV / 4), THREADS, ROW_THREADS })}
var<workgroup> partial: array<f32, THREADS>;
${problemUniforms(bindings.length)}
${declareRows(bindings, ['out', 'd_out'], IS_VEC4 ? 'vec4' : 'scalar')}
${HAS_D_LSE ? '@group(0) @binding(2) var<storage, read> d_lse: array<f32>;' : ''}
@group(0) @binding(${delta}) var<storage, read_write> delta: array<f32>;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) tid: u32) {
  let row = (group.y * groups.x + group.x) * (THREADS / ROW_THREADS) + tid / ROW_THREADS;
  let is_row = row < u.batch * u.hq * u.sq;
  var sum = 0.0;
  if (is_row) {
    let start = (row / (u.hq * u.sq)) * u.out_b + (row / u.sq % u.hq) * u.out_h + (row % u.sq) * u.out_s;
    for (var c = tid % ROW_THREADS; c < DV4; c += ROW_THREADS) {
      sum += dot(out_load(start, c, DV), d_out_load(start, c, DV));
    }
  }
  partial[tid] = sum;
  workgroupBarrier();
  if (is_row && tid % ROW_THREADS == 0u) {
    for (var t = 1u; t < ROW_THREADS; t++) { sum += partial[tid + t]; }
    delta[row] = sum${HAS_D_LSE ? ' - d_lse[row]' : ''};
  }
}
`;
}
