/** The steps that the three tile kernels (forward, …Dq, …Dkv) have in common, as verbs. */
import {
  addRowProducts,
  addWeightedRows,
  arenaElement,
  constants,
  elementsOf,
  repeat,
  sliceStride,
  stageRows,
  stageSlice,
  writeArena,
} from './wgsl.js';
import { declareRows, operandColumns, widthOf } from './operands.js';
import type { Binding, OperandConstants } from './operands.js';
import { problemUniforms } from './problemUniforms.js';
import { statsType } from './packStats.js';
import { hasHalves } from './tiles.js';
import type { SumShape, Tile } from './tiles.js';

/** The tile's constants, and the arena with its regions. */
function declareTile(tile: Tile): string {
  const { type, functions } = arenaElement[hasHalves(tile) ? 'halves' : 'floats'];
  return `
${constants({
  THREADS: tile.THREADS,
  LEFT: tile.LEFT,
  RIGHT: tile.RIGHT,
  CHUNK: tile.CHUNK,
  SLICE: tile.SLICE,
  LEFT_STRIDE: sliceStride(tile.SLICE, tile.slices.left.form),
  RIGHT_STRIDE: sliceStride(tile.SLICE, tile.slices.right.form),
  // the slices of the products; then weights and staged rows take their place
  LEFT_SLICE: 0,
  RIGHT_SLICE: tile.LEFT * sliceStride(tile.SLICE, tile.slices.left.form),
  WEIGHTS: 0,
  WEIGHT_STRIDE: tile.weightStride,
  STAGED: tile.LEFT * tile.weightStride,
  PRODUCT_ROWS: tile.rows,
  ROW_THREADS: tile.rowThreads,
})}
var<workgroup> arena: array<${type}, ${tile.arena}>;
${functions}
var<workgroup> shared_lengths: vec2u;`;
}

/** How many rows and keys this batch entry has, the same for all threads as barriers want it. */
const uniformLengths = `
fn uniform_lengths(tid: u32, lengths: vec2u) -> vec2u {
  if (tid == 0u) { shared_lengths = lengths; }
  return workgroupUniformLoad(&shared_lengths);
}`;

/** What stands at the head of every tile shader. `apart` names the bindings that are no rows of columns. */
export function attentionHead(
  record: OperandConstants,
  tile: Tile,
  bindings: Binding[],
  apart: string[],
): string {
  const rows = bindings.map(({ name }) => name).filter((name) => !apart.includes(name));
  return `
${declareTile(tile)}
${problemUniforms(bindings.length)}
${declareRows(bindings, rows, widthOf(record))}
${operandColumns(record)}
${uniformLengths}`;
}

/** The keys that a workgroup of a split walks over: whole tiles of RIGHT, so that no two splits share one. */
export const keysToWalk = `
fn keys_to_walk(tile: Tile, first_row: u32, split: u32) -> vec2u {
  let seen = keys_of_rows(tile, first_row, LEFT);
  let split_size = (tile.kv_length + RIGHT * u.splits - 1u) / (RIGHT * u.splits) * RIGHT;
  return vec2u(max(seen.x / RIGHT * RIGHT, split * split_size), min(seen.y, (split + 1u) * split_size));
}`;

/** Where this thread's products are: rows left_row…, right rows 4·(right_group + h·ROW_THREADS)… for each quad h. */
export function placeProducts(): string {
  return `
let right_group = tid % ROW_THREADS;
let left_row = tid / ROW_THREADS * PRODUCT_ROWS;
let left_at = LEFT_SLICE + tid / ROW_THREADS * LEFT_STRIDE;
let right_at = RIGHT_SLICE + tid % ROW_THREADS * RIGHT_STRIDE;`;
}

/**
 * `into`i_h.xyzw = left row i · four right rows, over all columns, slice by slice. `left` and `right` are WGSL for
 * column `column` of row `row` of the tile.
 */
export function multiplyRows(
  into: string,
  tile: Tile,
  columns4: number,
  left: string,
  right: string,
): string {
  const { slices, SLICE, THREADS, QUADS } = tile;
  const [lefts, rights] = [
    stageSlice('left', slices.left, THREADS, left),
    stageSlice('right', slices.right, THREADS, right),
  ];
  return `
for (var slice = 0u; slice < ${Math.ceil(columns4 / SLICE) * SLICE}u; slice += SLICE) {
  ${lefts.fetch}
  ${rights.fetch}
  ${lefts.put}
  ${rights.put}
  workgroupBarrier();
  ${addRowProducts(into, slices.left, slices.right, QUADS)}
  workgroupBarrier();
}`;
}

/** Room for the numbers of `rows` rows of statistics, as row_stats() returns them. */
export function declareStats(rows: number, hasScales: boolean): string {
  return `var<workgroup> rows_stats: array<${statsType(hasScales)}, ${rows}>;`;
}

/** Which four right rows this thread's quad h is made of. */
export function quadGroup(h: number): string {
  return h === 0 ? 'right_group' : `(right_group + ${h}u * ROW_THREADS)`;
}

/** `statement(i, h, group)` for each product of this thread, `group` being WGSL for its place among four right rows. */
export function forProducts(
  { rows, QUADS }: Tile,
  statement: (i: number, h: number, group: string) => string,
): string {
  return repeat(rows, (i) => repeat(QUADS, (h) => statement(i, h, quadGroup(h))));
}

/** Products NAMEi_h become weights. */
export function storeWeights(name: string, tile: Tile): string {
  const { weightForm } = tile;
  return forProducts(tile, (i, h, group) => {
    const at = `WEIGHTS + (left_row + ${i}u) * WEIGHT_STRIDE + ${group} * ${elementsOf(weightForm)}u`;
    return writeArena(weightForm, at, `${name}${i}_${h}`);
  });
}

/** Where this thread's sums are: rows PREFIX_row + i·rowGroups, columns PREFIX_column + c·columnGroups. */
export function placeSums(prefix: string, { columnGroups }: SumShape): string {
  return `
let ${prefix}_column = tid % ${columnGroups}u;
let ${prefix}_row = tid / ${columnGroups}u;`;
}

/**
 * PREFIXi_c += Σ over the RIGHT rows of weight · row, chunk by chunk; `row` is WGSL for column `c` of row
 * `chunk + row` of the tile.
 */
export function addWeighted(prefix: string, tile: Tile, shape: SumShape, row: string): string {
  const { CHUNK, RIGHT, THREADS, weightForm, weightStride } = tile;
  const form = hasHalves(tile) ? 'halves' : 'floats';
  const staged = stageRows('staged', 'STAGED', form, CHUNK, shape.rowLength, THREADS, row);
  return `
for (var part = 0u; part < ${RIGHT / CHUNK}u; part++) {
  let chunk = part * CHUNK;
  ${staged.fetch}
  ${staged.put}
  workgroupBarrier();
  {
    let weights_at = WEIGHTS + ${prefix}_row * WEIGHT_STRIDE + part * ${(CHUNK / 4) * elementsOf(weightForm)}u;
    let rows_at = STAGED + ${prefix}_column;
    ${addWeightedRows(prefix, {
      form,
      weightForm,
      rows: shape.rows,
      rowStep: shape.rowGroups * weightStride,
      columns: shape.columns,
      columnStep: shape.columnGroups,
      rowLength: shape.rowLength,
      chunk: CHUNK,
    })}
  }
  workgroupBarrier();
}`;
}

/** `statement(i, row)` for each row of this thread's sums, `row` being WGSL for its place in the tile. */
export function forSumRows(
  prefix: string,
  { rows, rowGroups }: SumShape,
  statement: (i: number, row: string) => string,
): string {
  return repeat(rows, (i) => statement(i, `(${prefix}_row + ${i * rowGroups}u)`));
}

/** Multiplies all sums of row i by the WGSL `factor`. */
export function scaleSums(prefix: string, { columns }: SumShape, i: number, factor: string): string {
  return `{ let factor = ${factor}; ${repeat(columns, (c) => `${prefix}${i}_${c} *= factor;`)} }`;
}

/** Stores the sums of row i through `store(c, value)`, WGSL text for one vec4 column. */
export function storeSums(
  prefix: string,
  { columns, columnGroups }: SumShape,
  i: number,
  store: (c: string, value: string) => string,
): string {
  return repeat(columns, (c) => store(`(${prefix}_column + ${c * columnGroups}u)`, `${prefix}${i}_${c}`));
}
