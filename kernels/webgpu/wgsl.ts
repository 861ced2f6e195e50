/**
 * Verbs that the shaders are written with: each returns whole lines of WGSL, unrolled, so that what a thread holds
 * has a name each and stays in registers.
 *
 * All tiles live in one `arena` in workgroup memory, four numbers an element: array<vec4f>, or array<vec2u> of packed
 * halves. An index into it is written out where it is used, as a sum of multiples of what the compiler knows bounds
 * of: then Dawn can prove that it is in range, and does not clamp it.
 */

/** `const NAME = value;` per entry; the constants of a shader enter it here and nowhere else. */
export function constants(record: Record<string, number>): string {
  return lines(Object.entries(record).map(([name, value]) => `const ${name} = ${value}u;`));
}

/**
 * How four numbers lie in the arena: as floats in an element; as halves, in an element of half the size; or as floats
 * in two elements of that size.
 */
export type Form = 'floats' | 'halves' | 'apart';

/** The element of an arena whose operands have this form, its bytes, and what it takes to read and write it. */
export const arenaElement = {
  floats: { type: 'vec4f', bytes: 16, functions: '' },
  // pack2x16float needs no shader-f16, and costs what a conversion costs
  halves: {
    type: 'vec2u',
    bytes: 8,
    functions: `
const MOST_HALF = vec4f(65504.0);

// what is too large for a half becomes the largest; NaN stays
fn halves_of(x: vec4f) -> vec2u {
  let y = select(x, clamp(x, -MOST_HALF, MOST_HALF), abs(x) > MOST_HALF);
  return vec2u(pack2x16float(y.xy), pack2x16float(y.zw));
}

fn floats_of(x: vec2u) -> vec4f {
  return vec4f(unpack2x16float(x.x), unpack2x16float(x.y));
}`,
  },
};

function readArena(form: Form, at: string): string {
  switch (form) {
    case 'floats':
      return `arena[${at}]`;
    case 'halves':
      return `floats_of(arena[${at}])`;
    case 'apart':
      return `vec4f(bitcast<vec2f>(arena[${at}]), bitcast<vec2f>(arena[${at} + 1u]))`;
  }
}

/** Writes `value`, WGSL for a vec4f. */
export function writeArena(form: Form, at: string, value: string): string {
  switch (form) {
    case 'floats':
      return `arena[${at}] = ${value};`;
    case 'halves':
      return `arena[${at}] = halves_of(${value});`;
    case 'apart':
      return `arena[${at}] = bitcast<vec2u>(${value}.xy); arena[${at} + 1u] = bitcast<vec2u>(${value}.zw);`;
  }
}

/**
 * How a storage buffer is read: in vec4 when every row starts and ends on one, else number by number. 'halves' are
 * float16, two to a word, read in rows of whole words, and written in rows of whole vec4.
 */
export type Width = 'vec4' | 'scalar' | 'halves';

/**
 * A tensor that is read in vec4 columns: `NAME_load(start, c, columns)` is column c of the row that begins at element
 * `start` and has `columns` numbers; what lies past them is 0.
 */
export function readable(name: string, binding: number, width: Width): string {
  const element = { vec4: 'vec4f', halves: 'u32', scalar: 'f32' }[width];
  return `
@group(0) @binding(${binding}) var<storage, read> ${name}: array<${element}>;
${loadOf(name, width)}`;
}

/** `NAME_load` alone, of what is declared already. */
export function loadOf(name: string, width: Width): string {
  if (width === 'vec4') {
    return `
fn ${name}_load(start: u32, c: u32, columns: u32) -> vec4f {
  return ${name}[(start >> 2u) + c];
}`;
  }
  if (width === 'halves') {
    return `
fn ${name}_load(start: u32, c: u32, columns: u32) -> vec4f {
  let at = (start >> 1u) + 2u * c;
  let second = select(0u, ${name}[at + 1u], columns > 4u * c + 2u);
  return vec4f(unpack2x16float(${name}[at]), unpack2x16float(second));
}`;
  }
  return `
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
export function writable(name: string, binding: number, width: Width): string {
  if (width === 'halves') {
    return `
@group(0) @binding(${binding}) var<storage, read_write> ${name}: array<vec2u>;
fn ${name}_store(start: u32, c: u32, columns: u32, value: vec4f) {
  ${name}[(start >> 2u) + c] = vec2u(pack2x16float(value.xy), pack2x16float(value.zw));
}`;
  }
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

/** `var s0_0 = vec4f(); var s0_1 = …`: a block of vec4, a name each. */
export function declareBlock(prefix: string, rows: number, columns: number): string {
  return repeat(rows, (i) => repeat(columns, (c) => `var ${prefix}${i}_${c} = vec4f(0.0);`));
}

/** A slice of an operand in the arena: `block` rows of it belong to one thread. */
export interface Slice {
  at: string;
  form: Form;
  rows: number;
  block: number;
  /** columns in vec4 */
  columns: number;
}

/** From row to row of a slice, in elements: an odd number, so that neighbours meet no common bank. */
export function sliceStride(columns: number, form: Form): number {
  return columns * elementsOf(form) + 1;
}

/** How far apart the rows of one thread lie: the first rows of all threads come first, then the second ones. */
function blockStride({ rows, block, columns, form }: Slice): number {
  return (rows / block) * sliceStride(columns, form);
}

/**
 * Rows on their way into the arena: loads of a thread's share into registers, and stores. Apart, since the compiler moves
 * no load over a store: so all of them are under way together.
 */
export interface Staging {
  fetch: string;
  put: string;
}

/** A slice: `column` is WGSL for column `c` of row `row`, a vec4f. `name` is the prefix of its registers. */
export function stageSlice(name: string, slice: Slice, threads: number, column: string): Staging {
  const { at, form, rows, block, columns } = slice;
  const [inBlock, ofBlock] = divided(threads / columns, block);
  const place = `${at} + ${inBlock} * ${blockStride(slice)}u + ${ofBlock} * ${sliceStride(columns, form)}u + c * ${elementsOf(form)}u`;
  return stage(name, rows, columns, threads, column, (value) => writeArena(form, place, value));
}

/** `rows` rows of `columns` vec4 columns, one behind the other. */
export function stageRows(
  name: string,
  at: string,
  form: 'floats' | 'halves',
  rows: number,
  columns: number,
  threads: number,
  column: string,
): Staging {
  const place = `${at} + tid + round * ${threads}u`;
  return stage(name, rows, columns, threads, column, (value) => writeArena(form, place, value));
}

/** WGSL for row % block and row / block, of which all but a constant is the same in each round where that is so. */
function divided(step: number, block: number): [string, string] {
  if (step % block !== 0) return [`row % ${block}u`, `row / ${block}u`];
  return [`first_staged % ${block}u`, `(first_staged / ${block}u + round * ${step / block}u)`];
}

/**
 * Each of rows · columns elements, `row` and `c` being its place. Where the threads take whole rows at a time, a thread
 * keeps its column.
 */
function stage(
  name: string,
  rows: number,
  columns: number,
  threads: number,
  column: string,
  put: (value: string) => string,
): Staging {
  const rounds = range(Math.ceil((rows * columns) / threads));
  const step = threads / columns;
  const place = Number.isInteger(step)
    ? [
        `  let first_staged = tid / ${columns}u;`,
        `  let row = first_staged + round * ${step}u;`,
        `  let c = tid % ${columns}u;`,
      ]
    : [
        `  let row = (tid + round * ${threads}u) / ${columns}u;`,
        `  let c = (tid + round * ${threads}u) % ${columns}u;`,
      ];
  const isExact = rounds.length * threads === rows * columns;
  const inEachRound = (statement: (register: string) => string): string =>
    lines(
      rounds.flatMap((round) => {
        const text = statement(`${name}${round}`);
        return [
          '{',
          `  const round = ${round}u;`,
          ...place,
          isExact ? `  ${text}` : `  if (row < ${rows}u) { ${text} }`,
          '}',
        ];
      }),
    );
  return {
    fetch: lines([
      ...rounds.map((round) => `var ${name}${round}: vec4f;`),
      inEachRound((register) => `${register} = ${column};`),
    ]),
    put: inEachRound(put),
  };
}

/**
 * Adds the products of rows with rows over one staged slice: `into`i_h.xyzw += x_i · (y_h0, y_h1, y_h2, y_h3), for the
 * thread's `left.block` rows x and `quads` times four rows y.
 *
 * Needs: left_at, right_at (the thread's first rows).
 */
export function addRowProducts(into: string, left: Slice, right: Slice, quads: number): string {
  const rowRange = range(left.block);
  const quadRange = range(quads);
  const nextQuad = (right.rows / right.block / quads) * sliceStride(right.columns, right.form);
  const rightOf = (h: number, j: number): string =>
    readArena(
      right.form,
      `right_at + ${h * nextQuad + j * blockStride(right)}u + c * ${elementsOf(right.form)}u`,
    );
  return loop('c', left.columns, 4, [
    ...quadRange.flatMap((h) => [
      ...range(4).map((j) => `  let y${h}_${j} = ${rightOf(h, j)};`),
      ...components.map((d) => `  let y${h}_${d} = vec4f(${fourOf((j) => `y${h}_${j}.${d}`)});`),
    ]),
    ...rowRange.map(
      (i) =>
        `  let x${i} = ${readArena(left.form, `left_at + ${i * blockStride(left)}u + c * ${elementsOf(left.form)}u`)};`,
    ),
    ...rowRange.flatMap((i) =>
      components.flatMap((d) =>
        quadRange.map((h) => `  ${into}${i}_${h} = fma(vec4f(x${i}.${d}), y${h}_${d}, ${into}${i}_${h});`),
      ),
    ),
  ]);
}

/** Elements from one vec4 of weights to the next. */
export function elementsOf(form: Form): number {
  return form === 'apart' ? 2 : 1;
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
    form: 'floats' | 'halves';
    weightForm: Form;
    rows: number;
    rowStep: number;
    columns: number;
    columnStep: number;
    rowLength: number;
    chunk: number;
  },
): string {
  const { form, weightForm, rows, rowStep, columns, columnStep, rowLength, chunk } = shape;
  const rowRange = range(rows);
  const weightOf = (i: number): string =>
    readArena(weightForm, `weights_at + ${i * rowStep}u + k * ${elementsOf(weightForm)}u`);
  const staged = (c: number, k: number): string =>
    readArena(form, `rows_at + k * ${4 * rowLength}u + ${c * columnStep + k * rowLength}u`);
  return loop('k', chunk / 4, 2, [
    ...rowRange.map((i) => `  let w${i} = ${weightOf(i)};`),
    ...range(columns).flatMap((c) => [
      ...range(4).map((k) => `  let z${c}_${k} = ${staged(c, k)};`),
      ...rowRange.flatMap((i) =>
        components.map(
          (d, k) => `  ${into}${i}_${c} = fma(vec4f(w${i}.${d}), z${c}_${k}, ${into}${i}_${c});`,
        ),
      ),
    ]),
  ]);
}

/** `for` NAME below `count`, with up to `copies` of its body one behind the other: drivers do not unroll it themselves. */
function loop(name: string, count: number, copies: number, body: string[]): string {
  const each = Math.min(copies, count);
  return lines([
    `for (var turn = 0u; turn < ${count / each}u; turn++) {`,
    ...range(each).flatMap((copy) => [`{`, `  let ${name} = turn * ${each}u + ${copy}u;`, ...body, '}']),
    '}',
  ]);
}

const components = ['x', 'y', 'z', 'w'];

function fourOf(part: (j: number) => string): string {
  return range(4).map(part).join(', ');
}

function range(count: number): number[] {
  return [...Array(count).keys()];
}

/** `body(i)` once for each i below count, as lines. */
export function repeat(count: number, body: (i: number) => string): string {
  return lines(range(count).map(body));
}

function lines(all: string[]): string {
  return all.join('\n');
}
