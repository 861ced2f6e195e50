/**
 * Puts lse, delta and the lengths into one buffer, since a stock device has eight bindings a shader:
 * [q length, kv length] per batch entry, then [lse, delta] per packed row (batch, key/value head, m), and behind that
 * room for what …Dkv leaves there.
 *
 * Where dOut is staged as halves, a row is [lse, delta, scale]: times this power of two, the largest number of a row
 * of dOut is from 1 to 2, since loss and gradients may be of any size.
 */
import { declareLengths, declareRows } from './operands.js';
import type { Binding } from './operands.js';
import { problemUniforms } from './problemUniforms.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { constants } from './wgsl.js';

const THREADS = 64;

export interface PackConstants {
  GROUP: number;
  HAS_Q_LENGTHS: number;
  HAS_KV_LENGTHS: number;
  /** there if rows have a scale: dOut then is read */
  scales?: { DV: number; IS_VEC4: number };
}

export function packBindings({ HAS_Q_LENGTHS, HAS_KV_LENGTHS, scales }: PackConstants): Binding[] {
  const bindings: Binding[] = [
    { name: 'lse', access: 'read' },
    { name: 'delta', access: 'read' },
  ];
  if (scales) bindings.push({ name: 'd_out', access: 'read' });
  if (HAS_Q_LENGTHS) bindings.push({ name: 'q_lengths', access: 'read' });
  if (HAS_KV_LENGTHS) bindings.push({ name: 'kv_lengths', access: 'read' });
  bindings.push({ name: 'stats', access: 'write' });
  return bindings;
}

/** Numbers of a row. */
function rowSize(hasScales: boolean): number {
  return hasScales ? 3 : 2;
}

/** Numbers before what …Dkv leaves in the buffer. */
export function statsSize({ b, hq, sq }: MlaProblem, hasScales: boolean): number {
  return 2 * b + rowSize(hasScales) * b * hq * sq;
}

export function packGroups({ b, hq, sq }: MlaProblem): number {
  return Math.ceil(Math.max(b * hq * sq, b) / THREADS);
}

export function packStatsWgsl(record: PackConstants): string {
  const bindings = packBindings(record);
  const { GROUP, scales } = record;
  return `
${constants({ GROUP, THREADS, ROW_STATS: rowSize(scales !== undefined) })}
${problemUniforms(bindings.length)}
@group(0) @binding(0) var<storage, read> lse: array<f32>;
@group(0) @binding(1) var<storage, read> delta: array<f32>;
@group(0) @binding(${bindings.length - 1}) var<storage, read_write> stats: array<f32>;
${declareLengths(bindings)}
${scales ? scaleOfRow(bindings, scales) : ''}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) tid: u32) {
  let index = (group.y * groups.x + group.x) * THREADS + tid;
  if (index < u.batch) {
    // without heads there are no rows
    stats[2u * index] = f32(select(q_lengths_of(index, u.sq), 0u, u.hq == 0u));
    stats[2u * index + 1u] = f32(kv_lengths_of(index, u.skv));
  }
  if (index >= u.batch * u.hq * u.sq) { return; }
  // index = (batch · hq + head) · sq + i; packed = ((batch · hkv + kv_head) · sq + i) · GROUP + head in its group
  let i = index % u.sq;
  let head = index / u.sq;
  let packed = ((head / GROUP) * u.sq + i) * GROUP + head % GROUP;
  let at = 2u * u.batch + ROW_STATS * packed;
  stats[at] = lse[index];
  stats[at + 1u] = delta[index];
  ${scales ? 'stats[at + 2u] = scale_of_row((head / u.hq) * u.out_b + (head % u.hq) * u.out_h + i * u.out_s);' : ''}
}
`;
}

function scaleOfRow(bindings: Binding[], { DV, IS_VEC4 }: { DV: number; IS_VEC4: number }): string {
  return `
${constants({ DV, DV4: Math.ceil(DV / 4) })}
${declareRows(bindings, ['d_out'], IS_VEC4 ? 'vec4' : 'scalar')}

// A power of two: its exponent is minus that of the largest number, as far as both have one.
fn scale_of_row(start: u32) -> f32 {
  var most = vec4f(0.0);
  for (var c = 0u; c < DV4; c++) { most = max(most, abs(d_out_load(start, c, DV))); }
  let largest = bitcast<u32>(max(max(most.x, most.y), max(most.z, most.w))) & 0x7f800000u;
  return bitcast<f32>(0x7f000000u - clamp(largest, 0x00800000u, 0x7e800000u));
}`;
}

/** For the shaders that read the buffer: lengths and numbers of a row. `access` as it is bound there. */
export function readStats(binding: number, access: 'read' | 'write', hasScales = false): string {
  const type = statsType(hasScales);
  return `
${constants({ ROW_STATS: rowSize(hasScales) })}
@group(0) @binding(${binding}) var<storage, ${access === 'read' ? 'read' : 'read_write'}> stats: array<f32>;

fn lengths_of(batch: u32) -> vec2u {
  return vec2u(u32(stats[2u * batch]), u32(stats[2u * batch + 1u]));
}

// [lse, delta] of a packed row, and the scale of its dOut with the inverse
fn row_stats(tile: Tile, m: u32) -> ${type} {
  if (m >= tile.q_length * GROUP) { return ${hasScales ? 'vec4f(0.0, 0.0, 1.0, 1.0)' : 'vec2f(0.0)'}; }
  let at = 2u * u.batch + ROW_STATS * ((tile.batch * u.hkv + tile.kv_head) * u.sq * GROUP + m);
  return ${type}(stats[at], stats[at + 1u]${hasScales ? ', stats[at + 2u], 1.0 / stats[at + 2u]' : ''});
}`;
}

/** What row_stats() returns. */
export function statsType(hasScales: boolean): string {
  return hasScales ? 'vec4f' : 'vec2f';
}
