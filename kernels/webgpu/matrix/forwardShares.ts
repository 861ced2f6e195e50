/** The forward on split numbers (lane T3x): operands have a scale each, and long sums are added in shares. */
import { finishRow } from './onlineSoftmax.js';

/** Of split numbers: keys whose weighted values a matrix unit adds, before a share of the sum is put away. */
export const SUM_KEYS = 256;

/**
 * Matrix units cut their sums off, and more with each that is added: after SUM_KEYS keys a share of the sums goes to the
 * output, where shares are added as floats. `start` is what each
 * begins with, `threads` those of a row.
 */
export function walkInShares(
  threads: number,
  start: string,
  walk: (from: string, to: string) => string,
  store: (statement: string) => string,
): string {
  return `
    for (var from_key = first_key; ; from_key += SUM_KEYS) {
      let to_key = min(from_key + SUM_KEYS, end_key);
      let is_last = to_key == end_key;
      ${start}
      let sum_before = row_sum;
      row_sum = 0.0;
      ${walk('from_key', 'to_key')}
      row_sum += sum_before;
      if (is_last) { ${finishRow(threads, 'part == 0u', 'value_unit')} }
      ${store(storeShare)}
      if (is_last) { break; }
    }`;
}

/** What storeRows() writes: the share of a row and those before it, and with the last the row is done. */
const storeShare = `
    if (first_row + at < u.sq * GROUP && column < DV4) {
      let start = split * u.batch * u.sq * u.hq * DV + out_start(tile, first_row + at);
      var sum = value;
      if (from_key > first_key) { sum += out_load(start, column, DV); }
      if (is_last) { sum *= factors[at]; }
      out_store(start, column, DV, sum);
    }`;

/** What the numbers of the operands were multiplied with. Needs tid. */
export const readScales = `
  let scales = operand_scales(tid);
  query_scale = select(-scales.q, scales.q, u.scale >= 0.0);
  let product_unit = 1.0 / scales.q / scales.k;
  let value_unit = 1.0 / scales.v;`;
