/**
 * The largest numbers of whole tensors, for powers of two that bring them into the range of halves.
 *
 * Grid: up to PARTS workgroups, each of which writes the maxima of its share of the rows; whoever needs them takes the
 * maximum of all. No atomics, the same bits every time.
 */
import type { MlaProblem } from '../../../src/core/problem.js';
import { problemUniforms } from '../problemUniforms.js';
import { constants } from '../wgsl.js';

const THREADS = 256;

/** Workgroups at most, and places for their maxima; as many as threads read them. */
export const PARTS = 256;

/** Numbers in the buffer. */
export const maximaSize = 4 * PARTS;

const ROW_THREADS = 8;
const GROUP_ROWS = THREADS / ROW_THREADS;

export function maximaGroups({ b, hq, hkv, sq, skv }: MlaProblem): number {
  return Math.max(1, Math.min(PARTS, Math.ceil((b * Math.max(hq * sq, hkv * skv)) / GROUP_ROWS)));
}

export interface MaximaShader {
  /** what the rows are read with, `tile_of(batch, kv_head)` among it */
  declarations: string;
  bindings: number;
  /** WGSL that raises `most` by packed row m of `tile`, and by its key j; a thread has every ROW_THREADS-th column */
  ofQuery: string;
  ofKey: string;
}

/** WGSL that raises a component of `most` by a row's columns. */
export function raise(component: string, columns: string, column: string): string {
  return `
    for (var c = tid % ROW_THREADS; c < ${columns}; c += ROW_THREADS) {
      most.${component} = max(most.${component}, largest(${column}));
    }`;
}

/** `maxima` is the last binding. */
export function maximaWgsl({ declarations, bindings, ofQuery, ofKey }: MaximaShader): string {
  return `
${constants({ THREADS, PARTS, ROW_THREADS, GROUP_ROWS })}
${problemUniforms(bindings)}
${declarations}
@group(0) @binding(${bindings - 1}) var<storage, read_write> maxima: array<vec4f>;
var<workgroup> most_of_threads: array<vec4f, THREADS>;

// of numbers that are finite: one that is not spoils what it is in, and no more
fn largest(x: vec4f) -> f32 {
  let bits = bitcast<vec4u>(x) & vec4u(0x7fffffffu);
  let y = bitcast<vec4f>(select(bits, vec4u(0u), bits >= vec4u(0x7f800000u)));
  return max(max(y.x, y.y), max(y.z, y.w));
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
    let m = row % rows;
    ${ofQuery}
  }
  for (var row = first; row < u.batch * u.hkv * u.skv; row += step) {
    let tile = tile_of(row / u.skv / u.hkv, row / u.skv % u.hkv);
    let j = row % u.skv;
    ${ofKey}
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

/** `most_of_all(tid)` for a shader of `threads` threads that all call it, and what makes powers of two of maxima. */
export function readMaxima(binding: number, threads: number): string {
  return `
@group(0) @binding(${binding}) var<storage, read> maxima: array<vec4f>;
var<workgroup> most_of_threads: array<vec4f, ${threads}>;

fn power_of_two(exponent: i32) -> f32 {
  return bitcast<f32>(u32(clamp(exponent, -120, 120) + 127) << 23u);
}

// the exponent of the first power of two that is above a number
fn exponent_above(x: f32) -> i32 {
  return i32((bitcast<u32>(x) >> 23u) & 255u) - 126;
}

fn most_of_all(tid: u32) -> vec4f {
  var most = vec4f(0.0);
  for (var part = tid; part < ${PARTS}u; part += ${threads}u) { most = max(most, maxima[part]); }
  most_of_threads[tid] = most;
  workgroupBarrier();
  for (var half = ${threads / 2}u; half > 0u; half /= 2u) {
    if (tid < half) { most_of_threads[tid] = max(most_of_threads[tid], most_of_threads[tid + half]); }
    workgroupBarrier();
  }
  return most_of_threads[0];
}`;
}
