/**
 * MLADecodeDq on subgroup matrices, B2-B4 of gradients/README.md; the steps are in decodeBackward.ts.
 * Grid: batch × tiles of LEFT packed rows × splits of the keys. Each split writes a share of its own; sumParts.ts adds them.
 */
import { queryRopeStart, queryStart } from '../operands.js';
import type { OperandConstants } from '../operands.js';
import { constants } from '../wgsl.js';
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
import { LEFT, RIGHT } from './decodeBackwardTile.js';
import { unitCounts } from './form.js';
import { keysOfSplit } from './onlineSoftmax.js';
import { gradientRows, queryRows } from './staging.js';
import { declareSums, mainHead } from './wgsl.js';

export function matrixDecodeDqWgsl(record: DecodeBackwardConstants): string {
  const tile = decodeBackwardTile(record);
  const { QK_UNITS, DV_UNITS } = unitCounts(record);
  return `
${decodeBackwardHead(record, tile)}
// what keysOfSplit calls them
${constants({ ROWS: LEFT, KEYS: RIGHT })}
${queryStart}
${record.DR > 0 ? queryRopeStart : ''}

${mainHead()}
  let batch = group.x;
  let first_row = group.y * ROWS;
  let split = group.z;
  ${placeDecodeBackward}
  ${keysOfSplit}
  let first_right = first_key;
  let steps = (end_key - first_key + KEYS - 1u) / KEYS;
  ${loadLeft(
    tile,
    [
      { rows: (place, row) => queryRows(record, place, row), units: QK_UNITS, product: 0 },
      { rows: (place, row) => gradientRows(record, place, row), units: DV_UNITS, product: 1 },
    ],
    'first_row',
  )}
  ${declareSums('g', 1, tile.own)}

  let m = first_row + row;
  let visible = keys_of_rows(tile, m, 1u);
  let band = vec2u(visible.x, max(visible.x, min(visible.y, end_key)) - visible.x);
  let stats = row_stats(tile, m);
  let lse = vec4f(fma(stats.x, -${Math.LOG2E}, p_shift));
  let delta = vec4f(stats.y * delta_scale);
  ${walkDecode(record, tile, {
    staged: (row) => cacheRows(record, tile.first, row),
    lse: 'lse',
    delta: 'delta',
    fetchStats: '',
    putStats: '',
  })}

  // queries are signed by the scale, dQ is not
  let factor = select(-sum_scale, sum_scale, u.scale >= 0.0);
  ${storeDecodeGradients(tile, storeDecodeDq(record))}
}
`;
}

function storeDecodeDq(record: OperandConstants): string {
  const first = (columns: string): string => `split * u.batch * u.sq * u.hq * ${columns}`;
  const nope = `d_q_store(${first('DN')} + q_start(tile, first_row + at), column, DN, value * factor);`;
  const rope = `d_q_rope_store(${first('DR')} + q_rope_start(tile, first_row + at), column - 2u * DN_UNITS, DR, value * factor);`;
  return `if (first_row + at < u.sq * GROUP) { ${storeParts(record, nope, rope)} }`;
}
