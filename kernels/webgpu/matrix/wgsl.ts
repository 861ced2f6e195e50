/**
 * Verbs of the shaders on subgroup matrices (lane T3).
 *
 * All tiles lie in one `arena: array<vec4u>` of workgroup memory. A unit is one element of it: eight halves or four
 * floats. Rows have one unit more than they need, against bank conflicts. A browser checks every matrix load whose
 * offset is not a constant, at three times its cost: so the operand that all subgroups read (staged keys or rows) is
 * loaded at constant offsets, and matrices are named variables, never arrays.
 */
import { repeat } from '../wgsl.js';
import { matrixUnits, sixteen } from './form.js';
import type { MatrixForm } from './form.js';

/** Rows, columns and depth of one matrix in decode and the backward, units that it spans, and lanes of a subgroup. */
export const EDGE = sixteen.k;
export const EDGE_UNITS = matrixUnits(sixteen).depth;
export const LANES = sixteen.lanes;

export function matrixHead({ m, n, k, operand, setsLanes }: MatrixForm = sixteen): string {
  const enabled = [
    ...(operand === 'f16' ? ['f16'] : []),
    'subgroups',
    ...(setsLanes ? ['subgroup_size_control'] : []),
    'chromium_experimental_subgroup_matrix',
  ];
  return `
${enabled.map((name) => `enable ${name};`).join('\n')}
// the compiler does not know that subgroupAny() tells all of a subgroup the same
diagnostic(off, subgroup_uniformity);

alias Left = subgroup_matrix_left<${operand}, ${k}, ${m}>;
alias Right = subgroup_matrix_right<${operand}, ${n}, ${k}>;
alias Sums = subgroup_matrix_result<f32, ${n}, ${m}>;`;
}

/** The entry point of every shader on matrices. */
export function mainHead({ lanes, setsLanes }: MatrixForm = sixteen): string {
  return `
@compute @workgroup_size(THREADS)${setsLanes ? ` @subgroup_size(${lanes})` : ''}
fn main(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) tid: u32,
  @builtin(subgroup_id) subgroup: u32) {`;
}

/** Eight floats as halves; what is too large for one becomes the largest, NaN stays. */
export const halvesOf = `
const MOST_HALF = vec4f(65504.0);

fn within_halves(x: vec4f) -> vec4f {
  return select(x, clamp(x, -MOST_HALF, MOST_HALF), abs(x) > MOST_HALF);
}

fn halves_of(a: vec4f, b: vec4f) -> vec4u {
  let x = within_halves(a);
  let y = within_halves(b);
  return vec4u(pack2x16float(x.xy), pack2x16float(x.zw), pack2x16float(y.xy), pack2x16float(y.zw));
}`;

/** `var NAMEr_c = Sums();` for each matrix of a block. Written as a constructor: in loops `var x: Sums;` keeps its old value. */
export function declareSums(name: string, rows: number, columns: number): string {
  return repeat(rows * columns, (i) => `var ${name}${Math.floor(i / columns)}_${i % columns} = Sums();`);
}

/**
 * Floats as two halves each, the second what the first leaves: 21 bits, as long as neither is below the normal numbers of
 * halves. The first is cut off by its bits: a driver may take a float made of the half that was made of it for the same.
 */
export const splitHalvesOf = `
fn high_part(a: vec4f) -> vec4f {
  return bitcast<vec4f>(bitcast<vec4u>(a) & vec4u(0xffffe000u));
}

fn packed_halves(a: vec4f, b: vec4f) -> vec4u {
  return vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}

fn high_halves(a: vec4f, b: vec4f) -> vec4u {
  return packed_halves(high_part(a), high_part(b));
}

fn low_halves(a: vec4f, b: vec4f) -> vec4u {
  return packed_halves(a - high_part(a), b - high_part(b));
}`;

/** Loads a block of left matrices that stay: `NAMEr_k` from `at` + r matrices of rows + k matrices. */
export function loadLefts(
  name: string,
  rows: number,
  steps: number,
  at: string,
  stride: number,
  first = 0,
  part: '' | '_low' = '',
  form = sixteen,
): string {
  return repeat(rows * steps, (i) => {
    const [r, k] = [Math.floor(i / steps), i % steps];
    const offset = r * form.m * stride + k * matrixUnits(form).depth;
    return `let ${name}${r}_${first + k}${part} = subgroupMatrixLoad<Left, row_major>(&arena, ${at} + ${offset}u, ${stride}u);`;
  });
}

/** Where a right operand is staged: rows of `stride` units from unit `at` on. */
export interface Staged {
  at: number;
  stride: number;
  /** of split numbers: units from a row's high halves to its low ones */
  low?: number;
}

/**
 * `into(r) += left(r) · right` for each group of rows. Of split numbers, whose parts are named NAME and NAME_low, all but
 * low times low.
 */
function multiplyInto(
  rows: number,
  { low }: Staged,
  load: (offset: number) => string,
  offset: number,
  left: (r: number) => string,
  into: (r: number) => string,
): string {
  const multiply = (r: number, a: string, b: string): string =>
    `  ${into(r)} = subgroupMatrixMultiplyAccumulate(${a}, ${b}, ${into(r)});`;
  const products = (r: number): string =>
    low === undefined
      ? multiply(r, left(r), 'right')
      : [
          multiply(r, `${left(r)}_low`, 'right'),
          multiply(r, left(r), 'right_low'),
          multiply(r, left(r), 'right'),
        ].join('\n');
  return `{
  let right = ${load(offset)};
${low === undefined ? '' : `  let right_low = ${load(offset + low)};\n`}${repeat(rows, products)}
}`;
}

/**
 * `SUMSr_c += left_r,k · rightᵀ`: products of rows with rows. Left matrices have names, the right rows are staged;
 * `columns` are the matrices of right rows that this subgroup multiplies.
 */
export function multiplyRows(
  sums: string,
  left: string,
  rows: number,
  steps: number,
  columns: number[],
  staged: Staged,
  form = sixteen,
): string {
  const { at, stride } = staged;
  return repeat(steps, (k) =>
    columns
      .map((column, c) =>
        multiplyInto(
          rows,
          staged,
          (offset) => `subgroupMatrixLoad<Right, col_major>(&arena, ${offset}u, ${stride}u)`,
          at + column * form.n * stride + k * matrixUnits(form).depth,
          (r) => `${left}${r}_${k}`,
          (r) => `${sums}${r}_${c}`,
        ),
      )
      .join('\n'),
  );
}

/**
 * `SUMSr_c += weights_r,k · staged rows`: weights are operands in the arena at `weightsAt(r, k)`, WGSL; `columns` are the
 * matrices of columns of the staged rows that this subgroup sums. Low halves lie KEYS / 8 units behind the high ones.
 */
export function addWeightedRows(
  sums: string,
  rows: number,
  steps: number,
  columns: number[],
  staged: Staged,
  weightsAt: (r: number, k: number) => string,
  weightStride: number,
  firstSum = 0,
  form = sixteen,
): string {
  const { at, stride, low } = staged;
  const load = (name: string, r: number, k: number, by: string): string =>
    `  let ${name} = subgroupMatrixLoad<Left, row_major>(&arena, ${weightsAt(r, k)}${by}, ${weightStride}u);`;
  return repeat(
    steps,
    (k) => `{
${repeat(rows, (r) => load(`w${r}`, r, k, ''))}
${low === undefined ? '' : repeat(rows, (r) => load(`w${r}_low`, r, k, ' + KEYS / 8u'))}
${columns
  .map((column, c) =>
    multiplyInto(
      rows,
      staged,
      (offset) => `subgroupMatrixLoad<Right, row_major>(&arena, ${offset}u, ${stride}u)`,
      at + k * form.k * stride + column * matrixUnits(form).columns,
      (r) => `w${r}`,
      (r) => `${sums}${r}_${firstSum + c}`,
    ),
  )
  .join('\n')}
}`,
  );
}

/** Stores a block of sums as floats: matrix r, c at `at` + r matrices of rows + c matrices. */
export function storeSums(
  name: string,
  rows: number,
  columns: number[],
  at: string,
  stride: number,
  form = sixteen,
): string {
  return repeat(rows * columns.length, (i) => {
    const [r, c] = [Math.floor(i / columns.length), i % columns.length];
    const offset = r * form.m * stride + (c * form.n) / 4;
    return `subgroupMatrixStore<row_major>(&arena, ${at} + ${offset}u, ${name}${r}_${columns[c]}, ${stride}u);`;
  });
}

/** Makes a block of sums 0 again. */
export function resetSums(name: string, rows: number, columns: number): string {
  return repeat(rows * columns, (i) => `${name}${Math.floor(i / columns)}_${i % columns} = Sums();`);
}

/** Sums of `rows` rows, of which each subgroup has `rowTiles` matrices, and `own` matrices of their columns. */
export interface Held {
  name: string;
  rows: number;
  rowTiles: number;
  own: number;
  columnGroups: number;
  /** units of the arena */
  arena: number;
  /** WGSL variables: which rows a subgroup has, and which columns */
  rowGroup: string;
  columnGroup: string;
}

/** Threads that write a row. */
const ROW_WRITERS = 8;

/**
 * The sums through the arena in as many rounds as it needs: `store` is WGSL that writes `value`, column `column` (in
 * vec4) of row `at` of the tile. It begins when nobody reads the arena any more. What a thread has written before, it
 * writes again in the next call.
 */
export function storeRows(held: Held, store: string, form = sixteen): string {
  const { name, rows, rowTiles, own, columnGroups, arena, rowGroup, columnGroup } = held;
  const quads = form.n / 4;
  const most = Math.floor((Math.floor(arena / rows) - 1) / quads / columnGroups);
  const perRound = Math.max(1, Math.min(own, 2 ** Math.floor(Math.log2(most))));
  return repeat(Math.ceil(own / perRound), (round) => {
    const first = round * perRound;
    const all = [...Array(Math.min(perRound, own - first)).keys()].map((i) => first + i);
    const width = all.length * quads;
    const stride = width * columnGroups + 1;
    const place = `${rowGroup} * ${rowTiles * form.m * stride}u + ${columnGroup} * ${width}u`;
    return `
  ${storeSums(name, rowTiles, all, place, stride, form)}
  workgroupBarrier();
  for (var at = tid / ${ROW_WRITERS}u; at < ${rows}u; at += THREADS / ${ROW_WRITERS}u) {
    ${repeat(
      Math.ceil((width * columnGroups) / ROW_WRITERS),
      (i) => `{
      let c = tid % ${ROW_WRITERS}u + ${i * ROW_WRITERS}u;
      let column = c / ${width}u * ${own * quads}u + ${first * quads}u + c % ${width}u;
      let value = bitcast<vec4f>(arena[at * ${stride}u + c]);
      ${(i + 1) * ROW_WRITERS <= width * columnGroups ? store : `if (c < ${width * columnGroups}u) { ${store} }`}
    }`,
    )}
  }
  workgroupBarrier();`;
  });
}

/** `body(group)` for the value of the WGSL variable `name`, as a chain of branches: offsets in them are constants. */
export function byGroup(name: string, groups: number, body: (group: number) => string): string {
  if (groups === 1) return body(0);
  const branches = Array.from({ length: groups }, (_, group) => {
    const condition = group < groups - 1 ? `if (${name} == ${group}u) ` : '';
    return `${condition}{\n${body(group)}\n}`;
  });
  return branches.join(' else ');
}

/** `head`: the (batch, key/value head) of a workgroup, heads fastest; the grid may have more than there are. */
export const headOfGroup = `
  let head_in_dispatch = group.z / u.splits * groups.x + group.x;
  if (head_in_dispatch >= u.heads) { return; }
  let head = u.first_head + head_in_dispatch;
  let batch = head / u.hkv;
  let kv_head = head % u.hkv;`;
