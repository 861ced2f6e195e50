/**
 * out[e] = Σ_part parts[start + part · size + e]: joins splits of a gradient, and the heads' shares of dKRope,
 * in a fixed order.
 */
import { constants } from './wgsl.js';
import type { Binding } from './operands.js';
import { packNumbers } from './problemUniforms.js';

const THREADS = 64;

export const sumBindings: Binding[] = [
  { name: 'parts', access: 'read' },
  { name: 'out', access: 'write' },
];

export interface Parts {
  start: number;
  size: number;
  parts: number;
}

export function sumPartsWgsl(): string {
  return `
${constants({ THREADS })}
struct Parts {
  start: u32,
  size: u32,
  parts: u32,
}
@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> u: Parts;

@compute @workgroup_size(THREADS)
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) tid: u32) {
  let element = (group.y * groups.x + group.x) * THREADS + tid;
  if (element >= u.size) { return; }
  var sum = 0.0;
  for (var part = 0u; part < u.parts; part++) { sum += parts[u.start + part * u.size + element]; }
  out[element] = sum;
}
`;
}

export function sumUniforms({ start, size, parts }: Parts): ArrayBuffer {
  return packNumbers([
    ['u32', start],
    ['u32', size],
    ['u32', parts],
  ]);
}

export function sumGrid({ size }: Parts): [number, number, number] {
  return flatGrid(Math.ceil(size / THREADS));
}

/** A count of workgroups as a grid whose sides stay within every device's limit. */
export function flatGrid(groups: number): [number, number, number] {
  const most = 65535;
  const y = Math.ceil(groups / most);
  return y === 0 ? [0, 0, 0] : [Math.ceil(groups / y), y, 1];
}
