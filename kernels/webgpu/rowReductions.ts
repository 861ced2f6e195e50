/**
 * One number out of all products of a left row, across the ROW_THREADS threads that hold them: by shuffles among lanes
 * that surely lie in one subgroup, and what is left of it through workgroup memory.
 *
 * WGSL does not say which threads make up a subgroup. Vulkan does where a workgroup of one dimension is made of whole
 * subgroups, and the others are known to do the same (gpuweb/gpuweb#4963): threads follow each other by
 * local_invocation_index. Sizes of subgroups are powers of two, so threads n·2^k to (n + 1)·2^k − 1 are together where
 * a subgroup has at least 2^k lanes, and their lanes differ as they do.
 */
import type { Tile } from './tiles.js';
import { constants, repeat } from './wgsl.js';

/** Stands at the head of a shader. */
export function enableSubgroups({ rowLanes }: Tile): string {
  return rowLanes > 1 ? 'enable subgroups;' : '';
}

const operations = {
  max: (a: string, b: string): string => `max(${a}, ${b})`,
  sum: (a: string, b: string): string => `${a} + ${b}`,
};

type Reduction = keyof typeof operations;

/** Functions of lanes, and room for what goes through workgroup memory. */
export function declareReductions({ LEFT, rowThreads, rowLanes }: Tile): string {
  const parts = rowThreads / rowLanes;
  return `
${constants({ ROW_LANES: rowLanes, ROW_PARTS: parts })}
${parts > 1 ? `var<workgroup> partial: array<f32, ${LEFT * parts}>;` : ''}

fn largest(x: vec4f) -> f32 {
  return max(max(x.x, x.y), max(x.z, x.w));
}

fn total(x: vec4f) -> f32 {
  return x.x + x.y + x.z + x.w;
}
${lanesFunction('max', rowLanes)}
${lanesFunction('sum', rowLanes)}`;
}

function lanesFunction(reduction: Reduction, lanes: number): string {
  const of = operations[reduction];
  return `
fn ${reduction}_of_lanes(x: f32) -> f32 {
  var all = x;
  ${repeat(Math.log2(lanes), (k) => `all = ${of('all', `subgroupShuffleXor(all, ${2 ** k}u)`)};`)}
  return all;
}`;
}

/** NAMEi, for each row i of this thread's products, becomes the same for all threads of the row. Holds a barrier. */
export function reduceRows(name: string, reduction: Reduction, { rows, rowThreads, rowLanes }: Tile): string {
  const of = operations[reduction];
  const lanes = repeat(rows, (i) => `${name}${i} = ${reduction}_of_lanes(${name}${i});`);
  if (rowLanes === rowThreads) return lanes;
  const partOf = (i: number, part: string): string => `partial[(left_row + ${i}u) * ROW_PARTS + ${part}]`;
  const others = (i: number): string => `
  {
    var all = ${partOf(i, '0u')};
    for (var part = 1u; part < ROW_PARTS; part++) { all = ${of('all', partOf(i, 'part'))}; }
    ${name}${i} = all;
  }`;
  return `
${lanes}
if (right_group % ROW_LANES == 0u) {
  ${repeat(rows, (i) => `${partOf(i, 'right_group / ROW_LANES')} = ${name}${i};`)}
}
workgroupBarrier();
${repeat(rows, others)}`;
}
