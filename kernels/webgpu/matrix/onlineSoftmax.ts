/**
 * The softmax of a walk over keys whose sums stay in matrices (FlashAttention-2, arXiv:2307.08691, algorithm 1, without
 * its rescaling), F2 and F3 of gradients/README.md. Scores are in base 2.
 *
 * Matrices cannot be multiplied row by row; to take sums through memory costs registers even where it never happens, and
 * with them half of the speed. So a row's reference stays what it was first: the maximum of the first keys that the row
 * sees and HEADROOM above. If a score is larger than that by more than ROOM, the workgroup walks a second time, and then
 * it knows the maximum.
 */
import { repeat } from '../wgsl.js';
import { sixteen } from './form.js';

/**
 * Of weights that are split in two halves the low one has a least number, 2^-25 of a weight of 1: so they have no
 * headroom, and products have their own scale, in which no constant is below all of them. Weights that are floats need no
 * headroom either, and have more room: as much as leaves sums of values of 1e20 finite.
 */
export function softmaxConstants({ operand, parts } = sixteen): string {
  const [headroom, room] = operand === 'f32' ? [0, 30] : [parts === 1 ? 8 : 0, 14];
  return `
// a product that no key can have; and a score above it and below all that a key can have
${parts === 1 ? 'const HIDDEN = -1e30;' : ''}
const LEAST = -1e20;
const HEADROOM = ${headroom}.0;
const ROOM = ${room}.0;
// what a ${operand === 'f32' ? 'sum' : 'half'} can hold: scores near 1e9 are rounded by more than that
const MOST_WEIGHT = ${room + 1}.0;
var<workgroup> factors: array<f32, ROWS>;
var<workgroup> must_repeat: u32;`;
}

/** The keys of a split that the tile's rows see, from a whole step of KEYS on. Needs tile, first_row, split. */
export const keysOfSplit = `
  let seen = keys_of_rows(tile, first_row, ROWS);
  let split_size = (tile.kv_length + KEYS * u.splits - 1u) / (KEYS * u.splits) * KEYS;
  let first_key = max(seen.x / KEYS * KEYS, split * split_size);
  let end_key = max(first_key, min(seen.y, (split + 1u) * split_size));`;

/**
 * What a thread knows of its row. It sees column c if c − band.x < band.y, without signs. Needs row, part; `unit` is WGSL
 * for what a product of 1 stands for.
 */
export function startRow(unit?: string): string {
  return `
  let m = first_row + row;
  let visible = keys_of_rows(tile, m, 1u);
  let band = vec2u(visible.x, max(visible.x, min(visible.y, end_key)) - visible.x);
  let scale = abs(u.scale) * ${Math.LOG2E}${unit ? ` * ${unit};\n  let HIDDEN = -1e21 / scale` : ''};
  // a row that sees nothing waits for no score
  var row_max = select(LEAST, 0.0, band.y == 0u);
  var row_sum = 0.0;
  var reference = LEAST;
  if (tid == 0u) { must_repeat = 0u; }`;
}

/** Four numbers from column `column` + first on, `hidden` where they are not in the row's band. */
export function visibleOr(hidden: string, values: string, first: number): string {
  const columns = [0, 1, 2, 3].map((c) => `${first + c}u`).join(', ');
  return `select(vec4f(${hidden}), ${values}, vec4u(column) + vec4u(${columns}) < vec4u(band.y))`;
}

/** A row's reference, once it sees a key, from the maximum `part_max` of each of its `threads` threads. */
export function meetScores(threads: number): string {
  return `
    row_max = max(row_max, part_max * scale);
    if (subgroupAny(reference == LEAST)) {
      ${joinMaxima(threads)}
      reference = select(reference, row_max + HEADROOM, reference == LEAST && row_max > LEAST);
    }`;
}

function joinMaxima(threads: number): string {
  return shuffle(threads, (by) => `row_max = max(row_max, subgroupShuffleXor(row_max, ${by}u));`);
}

export function weightOf(scores: string): string {
  return `exp2(min(fma(${scores}, vec4f(scale), vec4f(-reference)), vec4f(MOST_WEIGHT)))`;
}

/**
 * `walk` over the keys with sums that `reset` makes 0, and once more if one of a row's `threads` threads asks for it. It
 * ends with a barrier.
 */
export function walkTwice(threads: number, reset: string, walk: string): string {
  return `
  for (var walk = 0u; walk < 2u; walk++) {
    ${reset}
    row_sum = 0.0;
    reference = row_max;
    ${walk}
    if (row_max > reference + ROOM) { must_repeat = 1u; }
    if (workgroupUniformLoad(&must_repeat) == 0u) { break; }
    ${joinMaxima(threads)}
  }`;
}

/**
 * The factor of a row's sums, and its lse; `isFirst` is WGSL for the first thread of a row that exists, `unit` for what a
 * value of 1 stands for.
 */
export function finishRow(threads: number, isFirst: string, unit = '1.0'): string {
  return `
  ${shuffle(threads, (by) => `row_sum += subgroupShuffleXor(row_sum, ${by}u);`)}
  if (${isFirst}) {
    factors[row] = select(${unit} / row_sum, 0.0, row_sum == 0.0);
    if (m < u.sq * GROUP) {
      let at = ((split * u.batch + batch) * u.hq + head_of(tile, m)) * u.sq + m / GROUP;
      lse[at] = select((reference + log2(row_sum)) * ${Math.LN2}, u.minus_infinity, row_sum == 0.0);
    }
  }`;
}

/** What storeRows() writes of the output: a split writes one of its own. */
export const storeOutput = `
    if (first_row + at < u.sq * GROUP && column < DV4) {
      let start = split * u.batch * u.sq * u.hq * DV + out_start(tile, first_row + at);
      out_store(start, column, DV, value * factors[at]);
    }`;

function shuffle(threads: number, statement: (by: number) => string): string {
  return repeat(Math.log2(threads), (i) => statement(1 << i));
}
