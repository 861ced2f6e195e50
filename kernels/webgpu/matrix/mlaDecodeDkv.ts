/**
 * MLADecodeDkv on subgroup matrices, B2, B3, B5-B7 of gradients/README.md; the steps are in decodeBackward.ts.
 * Grid: batch × tiles of LEFT keys × splits of the rows that see them. Both gradients of a latent, as value and as key, are
 * added in the same sums; each split writes a share of its own, and sumParts.ts adds them.
 */
import type { OperandConstants } from '../operands.js';
import { cacheRows } from './cacheRows.js';
import {
  decodeBackwardHead,
  decodeBackwardTile,
  loadLeft,
  placeDecodeBackward,
  storeDecodeGradients,
  storeParts,
  walkDecode,
} from './decodeBackward.js';
import type { DecodeBackwardConstants } from './decodeBackward.js';
import { RIGHT } from './decodeBackwardTile.js';
import { unitCounts } from './form.js';
import { gradientRows, queryRows } from './staging.js';
import { declareSums, mainHead } from './wgsl.js';

export function matrixDecodeDkvWgsl(record: DecodeBackwardConstants): string {
  const tile = decodeBackwardTile(record);
  const { QK_UNITS } = unitCounts(record);
  return `
${decodeBackwardHead(record, tile)}
// p_shift − lse and −delta of the staged rows, as the weights want them
var<workgroup> lse_of_right: array<vec4f, ${RIGHT / 4}>;
var<workgroup> delta_of_right: array<vec4f, ${RIGHT / 4}>;

${mainHead()}
  let batch = group.x;
  let first_key = group.y * LEFT;
  let split = group.z;
  ${placeDecodeBackward}
  let seeing = rows_of_keys(tile, first_key, LEFT);
  let first_row = seeing.x / RIGHT * RIGHT;
  let all_steps = (max(seeing.y, first_row) - first_row + RIGHT - 1u) / RIGHT;
  let split_steps = (all_steps + u.splits - 1u) / u.splits;
  let first_step = min(split * split_steps, all_steps);
  let first_right = first_row + first_step * RIGHT;
  let steps = min(split_steps, all_steps - first_step);
  ${loadLeft(tile, [{ rows: (place, row) => cacheRows(record, place, row), units: QK_UNITS }], 'first_key')}
  ${declareSums('g', 1, tile.own)}

  let visible = rows_of_keys(tile, first_key + row, 1u);
  let band = vec2u(visible.x, visible.y - visible.x);
  ${walkDecode(record, tile, {
    staged: (row) => [...queryRows(record, tile.first, row), ...gradientRows(record, tile.second, row)],
    lse: 'lse_of_right[part]',
    delta: 'delta_of_right[part]',
    fetchStats: `let stats = row_stats(tile, $row + tid % RIGHT);`,
    putStats: `
    if (tid < RIGHT) {
      lse_of_right[tid / 4u][tid % 4u] = fma(stats.x, -${Math.LOG2E}, p_shift);
      delta_of_right[tid / 4u][tid % 4u] = stats.y * delta_scale;
    }`,
  })}

  // keys that nobody sees get the 0 that their sums still are
  ${storeDecodeGradients(tile, storeDecodeDkv(record))}
}
`;
}

function storeDecodeDkv(record: OperandConstants): string {
  const first = 'split * u.batch * u.skv';
  const nope = `d_k_store(${first} * DN + batch * u.k_b + j * u.k_s, column, DN, value * sum_scale);`;
  const rope = `d_k_rope_store(${first} * DR + batch * u.k_rope_b + j * u.k_rope_s, column - 2u * DN_UNITS, DR, value * sum_scale);`;
  return `
    let j = first_key + at;
    if (j < u.skv) { ${storeParts(record, nope, rope)} }`;
}
