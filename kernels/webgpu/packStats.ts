/**
 * Puts lse, delta and the lengths into one buffer, since a stock device has eight bindings a shader:
 * [q length, kv length] per batch entry, then [lse, delta] per packed row (batch, key/value head, m), and behind that
 * room for what …Dkv leaves there.
 */
import { declareLengths } from './operands.js';
import type { Binding } from './operands.js';
import { problemUniforms } from './problemUniforms.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { constants } from './wgsl.js';

const THREADS = 64;

export interface PackConstants {
  GROUP: number;
  HAS_Q_LENGTHS: number;
  HAS_KV_LENGTHS: number;
}

export function packBindings({ HAS_Q_LENGTHS, HAS_KV_LENGTHS }: PackConstants): Binding[] {
  const bindings: Binding[] = [
    { name: 'lse', access: 'read' },
    { name: 'delta', access: 'read' },
  ];
  if (HAS_Q_LENGTHS) bindings.push({ name: 'q_lengths', access: 'read' });
  if (HAS_KV_LENGTHS) bindings.push({ name: 'kv_lengths', access: 'read' });
  bindings.push({ name: 'stats', access: 'write' });
  return bindings;
}

/** Numbers before what …Dkv leaves in the buffer. */
export function statsSize({ b, hq, sq }: MlaProblem): number {
  return 2 * b + 2 * b * hq * sq;
}

export function packGroups({ b, hq, sq }: MlaProblem): number {
  return Math.ceil(Math.max(b * hq * sq, b) / THREADS);
}

export function packStatsWgsl(record: PackConstants): string {
  const bindings = packBindings(record);
  return `
${constants({ GROUP: record.GROUP, THREADS })}
${problemUniforms(bindings.length)}
@group(0) @binding(0) var<storage, read> lse: array<f32>;
@group(0) @binding(1) var<storage, read> delta: array<f32>;
@group(0) @binding(${bindings.length - 1}) var<storage, read_write> stats: array<f32>;
${declareLengths(bindings)}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) tid: u32) {
  let index = (group.y * groups.x + group.x) * THREADS + tid;
  if (index < u.batch) {
    stats[2u * index] = f32(q_lengths_of(index, u.sq));
    stats[2u * index + 1u] = f32(kv_lengths_of(index, u.skv));
  }
  if (index >= u.batch * u.hq * u.sq) { return; }
  // index = (batch · hq + head) · sq + i; packed = ((batch · hkv + kv_head) · sq + i) · GROUP + head in its group
  let i = index % u.sq;
  let head = index / u.sq;
  let packed = ((head / GROUP) * u.sq + i) * GROUP + head % GROUP;
  stats[2u * u.batch + 2u * packed] = lse[index];
  stats[2u * u.batch + 2u * packed + 1u] = delta[index];
}
`;
}

/** For the shaders that read the buffer: lengths and numbers of a row. `access` as it is bound there. */
export function readStats(binding: number, access: 'read' | 'write'): string {
  return `
@group(0) @binding(${binding}) var<storage, ${access === 'read' ? 'read' : 'read_write'}> stats: array<f32>;

fn lengths_of(batch: u32) -> vec2u {
  return vec2u(u32(stats[2u * batch]), u32(stats[2u * batch + 1u]));
}

// [lse, delta] of a packed row
fn row_stats(tile: Tile, m: u32) -> vec2f {
  if (m >= tile.q_length * GROUP) { return vec2f(0.0); }
  let at = 2u * (u.batch + (tile.batch * u.hkv + tile.kv_head) * u.sq * GROUP + m);
  return vec2f(stats[at], stats[at + 1u]);
}`;
}
