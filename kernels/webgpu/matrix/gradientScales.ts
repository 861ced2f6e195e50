/**
 * Powers of two that bring the gradient into the range of halves, whose least normal number is 6e-5: one for dOut, and
 * one for dS that can overflow for no input, since |dOut · v| <= DV · max|dOut| · max|v|.
 *
 * Grid: up to PARTS workgroups, each of which writes the maxima of its share; whoever needs them takes the maximum of
 * all. No atomics, the same bits every time.
 */
import type { MlaProblem } from '../../../src/core/problem.js';
import { dOutColumn } from '../mlaAttentionDq.js';
import { declareRows, operandSizes, tileRows, valueColumns, widthOf } from '../operands.js';
import type { Binding, OperandConstants } from '../operands.js';
import { readStats } from '../packStats.js';
import { problemUniforms } from '../problemUniforms.js';
import { constants } from '../wgsl.js';

const THREADS = 256;

/** Workgroups at most, and places for their maxima; as many as threads read them. */
export const PARTS = 256;

/** Numbers in the buffer. */
export const maximaSize = 4 * PARTS;

const ROW_THREADS = 8;
const GROUP_ROWS = THREADS / ROW_THREADS;

/** The values of MLADecode are its keys. */
export function maximaBindings({ IS_DECODE, IS_PACKED }: OperandConstants): Binding[] {
  return [
    { name: 'd_out', access: 'read' },
    { name: IS_DECODE ? 'k' : 'v', access: 'read', isPacked: IS_PACKED === 1 },
    { name: 'stats', access: 'read' },
    { name: 'maxima', access: 'write' },
  ];
}

export function maximaBinding(bindings: Binding[]): number {
  return bindings.findIndex(({ name }) => name === 'maxima');
}

export function maximaGroups({ b, hq, hkv, sq, skv }: MlaProblem): number {
  return Math.max(1, Math.min(PARTS, Math.ceil((b * Math.max(hq * sq, hkv * skv)) / GROUP_ROWS)));
}

export function gradientMaximaWgsl(record: OperandConstants): string {
  const bindings = maximaBindings(record);
  const [dOut, values] = bindings;
  return `
${operandSizes(record)}
${constants({ THREADS, PARTS, ROW_THREADS, GROUP_ROWS })}
${problemUniforms(bindings.length)}
${declareRows(bindings, [dOut.name, values.name], widthOf(record))}
${tileRows}
${valueColumns(record)}
${dOutColumn}
${readStats(2, 'read')}
@group(0) @binding(3) var<storage, read_write> maxima: array<vec4f>;
var<workgroup> most_of_threads: array<vec4f, THREADS>;

fn largest(x: vec4f) -> f32 {
  let y = abs(x);
  return max(max(y.x, y.y), max(y.z, y.w));
}

fn tile_of(batch: u32, kv_head: u32) -> Tile {
  let lengths = lengths_of(batch);
  return Tile(batch, kv_head, lengths.x, lengths.y);
}

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) tid: u32) {
  let first = group.x * GROUP_ROWS + tid / ROW_THREADS;
  let step = groups.x * GROUP_ROWS;
  let rows = u.sq * GROUP;
  var most = vec4f(0.0);
  for (var row = first; row < u.batch * u.hkv * rows; row += step) {
    let tile = tile_of(row / rows / u.hkv, row / rows % u.hkv);
    for (var c = tid % ROW_THREADS; c < DV4; c += ROW_THREADS) {
      most.x = max(most.x, largest(d_out_column(tile, row % rows, c)));
    }
    most.z = max(most.z, abs(row_stats(tile, row % rows).y));
  }
  for (var row = first; row < u.batch * u.hkv * u.skv; row += step) {
    let tile = tile_of(row / u.skv / u.hkv, row / u.skv % u.hkv);
    for (var c = tid % ROW_THREADS; c < DV4; c += ROW_THREADS) {
      most.y = max(most.y, largest(v_column(tile, row % u.skv, c)));
    }
  }
  most_of_threads[tid] = most;
  workgroupBarrier();
  for (var half = THREADS / 2u; half > 0u; half /= 2u) {
    if (tid < half) { most_of_threads[tid] = max(most_of_threads[tid], most_of_threads[tid + half]); }
    workgroupBarrier();
  }
  // the workgroups that there are fill all places
  for (var part = group.x + tid * groups.x; part < PARTS; part += THREADS * groups.x) { maxima[part] = most_of_threads[0]; }
}
`;
}

/** `gradient_scales(tid)` for a shader of `threads` threads that all call it: powers of two and their inverses. */
export function gradientScales(binding: number, threads: number): string {
  return `
@group(0) @binding(${binding}) var<storage, read> maxima: array<vec4f>;
var<workgroup> most_of_threads: array<vec4f, ${threads}>;

struct Scales {
  d_out: f32,
  d_s: f32,
}

fn power_of_two(exponent: i32) -> f32 {
  return bitcast<f32>(u32(clamp(exponent, -120, 120) + 127) << 23u);
}

// the exponent of the first power of two that is above a number
fn exponent_above(x: f32) -> i32 {
  return i32((bitcast<u32>(x) >> 23u) & 255u) - 126;
}

fn gradient_scales(tid: u32) -> Scales {
  var most = vec4f(0.0);
  for (var part = tid; part < ${PARTS}u; part += ${threads}u) { most = max(most, maxima[part]); }
  most_of_threads[tid] = most;
  workgroupBarrier();
  for (var half = ${threads / 2}u; half > 0u; half /= 2u) {
    if (tid < half) { most_of_threads[tid] = max(most_of_threads[tid], most_of_threads[tid + half]); }
    workgroupBarrier();
  }
  most = most_of_threads[0];
  let products = exponent_above(most.x) + exponent_above(most.y) + exponent_above(f32(DV));
  let largest = max(products, exponent_above(most.z)) + 1;
  return Scales(
    select(power_of_two(-exponent_above(most.x)), 1.0, most.x == 0.0),
    select(power_of_two(14 - largest), 1.0, most.x == 0.0 && most.z == 0.0));
}`;
}
