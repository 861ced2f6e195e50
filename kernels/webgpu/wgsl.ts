/**
 * Verbs that the shaders are written with: each returns whole lines of WGSL, unrolled, so that what a thread holds
 * has a name each and stays in registers.
 *
 * All tiles live in one `arena: array<vec4f>` in workgroup memory.
 */

/** `const NAME = value;` per entry; the constants of a shader enter it here and nowhere else. */
export function constants(record: Record<string, number>): string {
  return lines(Object.entries(record).map(([name, value]) => `const ${name} = ${value}u;`));
}

/** Columns of a staged slice, in vec4. Rows are rotated by a quarter of their number: neighbours meet no common bank. */
export const SLICE = 8;

/**
 * How a storage buffer is read: in vec4 when every row starts and ends on one, else number by number. 'halves' are
 * float16, two to a word, in rows of whole words: they are read only.
 */
export type Width = 'vec4' | 'scalar' | 'halves';

/**
 * A tensor that is read in vec4 columns: `NAME_load(start, c, columns)` is column c of the row that begins at element
 * `start` and has `columns` numbers; what lies past them is 0.
 */
export function readable(name: string, binding: number, width: Width): string {
  if (width === 'vec4') {
    return `
@group(0) @binding(${binding}) var<storage, read> ${name}: array<vec4f>;
fn ${name}_load(start: u32, c: u32, columns: u32) -> vec4f {
  return ${name}[(start >> 2u) + c];
}`;
  }
  if (width === 'halves') {
    return `
@group(0) @binding(${binding}) var<storage, read> ${name}: array<u32>;
fn ${name}_load(start: u32, c: u32, columns: u32) -> vec4f {
  let at = (start >> 1u) + 2u * c;
  let second = select(0u, ${name}[at + 1u], columns > 4u * c + 2u);
  return vec4f(unpack2x16float(${name}[at]), unpack2x16float(second));
}`;
  }
  return `
@group(0) @binding(${binding}) var<storage, read> ${name}: array<f32>;
fn ${name}_load(start: u32, c: u32, columns: u32) -> vec4f {
  let at = start + 4u * c;
  let left = columns - 4u * c;
  return vec4f(
    ${name}[at],
    select(0.0, ${name}[at + 1u], left > 1u),
    select(0.0, ${name}[at + 2u], left > 2u),
    select(0.0, ${name}[at + 3u], left > 3u));
}`;
}

/** A tensor that is written in vec4 columns: `NAME_store(start, c, columns, value)`, the inverse of `NAME_load`. */
export function writable(name: string, binding: number, width: Exclude<Width, 'halves'>): string {
  if (width === 'vec4') {
    return `
@group(0) @binding(${binding}) var<storage, read_write> ${name}: array<vec4f>;
fn ${name}_store(start: u32, c: u32, columns: u32, value: vec4f) {
  ${name}[(start >> 2u) + c] = value;
}`;
  }
  return `
@group(0) @binding(${binding}) var<storage, read_write> ${name}: array<f32>;
fn ${name}_store(start: u32, c: u32, columns: u32, value: vec4f) {
  let at = start + 4u * c;
  let left = columns - 4u * c;
  ${name}[at] = value.x;
  if (left > 1u) { ${name}[at + 1u] = value.y; }
  if (left > 2u) { ${name}[at + 2u] = value.z; }
  if (left > 3u) { ${name}[at + 3u] = value.w; }
}`;
}

/** Integer lengths [b], read by NAME_of(batch) and clamped to `size`; absent, every length is `size`. */
export function lengthsOf(name: string, binding: number | undefined): string {
  if (binding === undefined) return `fn ${name}_of(batch: u32, size: u32) -> u32 { return size; }`;
  return `
@group(0) @binding(${binding}) var<storage, read> ${name}: array<i32>;
fn ${name}_of(batch: u32, size: u32) -> u32 { return u32(clamp(${name}[batch], 0, i32(size))); }`;
}

/** `var s0 = vec4f(); var s1 = …`: one vec4 a name. */
export function declare(prefix: string, count: number): string {
  return lines(names(prefix, count).map((name) => `var ${name} = vec4f(0.0);`));
}

/**
 * Stages `rows` rows of a slice of 8 columns at `at`: `column(row, c)` is a WGSL function of the row in the tile and
 * the column in the whole tensor, returning vec4f. Constant trip count: the loads are all under way together.
 */
export function stageSlice(at: string, rows: number, threads: number, column: string): string {
  return stage(rows * SLICE, threads, (element) => [
    `let row = ${element} / ${SLICE}u;`,
    `let c = ${element} % ${SLICE}u;`,
    `arena[${at} + row * ${SLICE}u + ((c + (row >> 2u)) & 7u)] = ${column};`,
  ]);
}

/** Stages `rows` rows of `columns` vec4 columns, one behind the other. */
export function stageRows(
  at: string,
  rows: number,
  columns: number,
  threads: number,
  column: string,
): string {
  return stage(rows * columns, threads, (element) => [
    `let row = ${element} / ${columns}u;`,
    `let c = ${element} % ${columns}u;`,
    `arena[${at} + ${element}] = ${column};`,
  ]);
}

function stage(elements: number, threads: number, body: (element: string) => string[]): string {
  const rounds = Math.ceil(elements / threads);
  const statements = body('element').map((statement) => `  ${statement}`);
  const isExact = rounds * threads === elements;
  return lines([
    `for (var round = 0u; round < ${rounds}u; round++) {`,
    `  let element = tid + round * ${threads}u;`,
    ...(isExact ? statements : [`  if (element < ${elements}u) {`, ...statements, '  }']),
    '}',
  ]);
}

/**
 * Adds the products of rows with rows over one staged slice: `into`i.xyzw += x_i · (y_0, y_1, y_2, y_3), for `rows`
 * rows x from `left_at` on and the four rows y from `right_at` on.
 *
 * Needs: left_at, left_group (= first row x / 4), right_at, right_group (= first row y / 4).
 */
export function addRowProducts(into: string, rows: number): string {
  const range = [...Array(rows).keys()];
  return lines([
    `for (var c = 0u; c < ${SLICE}u; c++) {`,
    '  let y_at = right_at + ((c + right_group) & 7u);',
    ...[0, 1, 2, 3].map((j) => `  let y${j} = arena[y_at + ${j * SLICE}u];`),
    ...['x', 'y', 'z', 'w'].map((d) => `  let y_${d} = vec4f(y0.${d}, y1.${d}, y2.${d}, y3.${d});`),
    ...range.map(
      (i) => `  let x${i} = arena[left_at + ${i * SLICE}u + ((c + left_group + ${i >> 2}u) & 7u)];`,
    ),
    ...range.flatMap((i) =>
      ['x', 'y', 'z', 'w'].map((d) => `  ${into}${i} = fma(vec4f(x${i}.${d}), y_${d}, ${into}${i});`),
    ),
    '}',
  ]);
}

/**
 * Adds weights times rows over one staged chunk: `into`i_c += Σ_k weight[i][k] · row[k][c], for `rows` rows of weights
 * and `columns` vec4 columns a thread.
 *
 * Needs: weights_at (of the thread's first row, at the chunk), rows_at (column of the thread in the chunk's first row).
 */
export function addWeightedRows(
  into: string,
  shape: {
    rows: number;
    rowStep: number;
    columns: number;
    columnStep: number;
    rowLength: number;
    chunk: number;
  },
): string {
  const { rows, rowStep, columns, columnStep, rowLength, chunk } = shape;
  const rowRange = [...Array(rows).keys()];
  const columnRange = [...Array(columns).keys()];
  return lines([
    `for (var k = 0u; k < ${chunk / 4}u; k++) {`,
    ...rowRange.map((i) => `  let w${i} = arena[weights_at + ${i * rowStep}u + k];`),
    `  let z_at = rows_at + k * ${4 * rowLength}u;`,
    ...columnRange.flatMap((c) => [
      ...[0, 1, 2, 3].map((k) => `  let z${c}_${k} = arena[z_at + ${c * columnStep + k * rowLength}u];`),
      ...rowRange.flatMap((i) =>
        ['x', 'y', 'z', 'w'].map(
          (d, k) => `  ${into}${i}_${c} = fma(vec4f(w${i}.${d}), z${c}_${k}, ${into}${i}_${c});`,
        ),
      ),
    ]),
    '}',
  ]);
}

/** The names prefix0, prefix1, … */
export function names(prefix: string, count: number): string[] {
  return [...Array(count).keys()].map((index) => `${prefix}${index}`);
}

/** `body(i)` once for each i below count, as lines. */
export function repeat(count: number, body: (i: number) => string): string {
  return lines([...Array(count).keys()].map(body));
}

function lines(all: string[]): string {
  return all.join('\n');
}
