/**
 * MLAAttentionDq on subgroup matrices, B2-B4 of gradients/README.md; the steps are in backward.ts.
 * Grid: some (batch · key/value heads) × tiles of LEFT packed rows, longest first.
 */
import { queryStart } from '../operands.js';
import type { Binding, OperandConstants } from '../operands.js';
import {
  backwardHead,
  backwardInputs,
  backwardWork,
  loadLeft,
  placeBackward,
  sidesOf,
  storeGradients,
  walkRight,
} from './backward.js';
import { SUM_ROWS, layOutBackward } from './backwardTile.js';
import type { BackwardTile } from './backwardTile.js';
import { declareSums, headOfGroup, mainHead } from './wgsl.js';

export const matrixDqBindings: Binding[] = [...backwardInputs('read'), { name: 'd_q', access: 'write' }];

export function matrixDqTile(record: OperandConstants): BackwardTile {
  return layOutBackward(backwardWork(record, false));
}

export function matrixDqWgsl(record: OperandConstants): string {
  const tile = matrixDqTile(record);
  const { queries, keys } = sidesOf(record);
  return `
${backwardHead(record, tile, matrixDqBindings, ['d_q'])}

${queryStart}

${mainHead()}
  ${headOfGroup}
  let lengths = lengths_of(batch);
  let tile = Tile(batch, kv_head, lengths.x, lengths.y);
  let first_row = (u.tiles - 1u - group.y) * LEFT;
  let seen = keys_of_rows(tile, first_row, LEFT);
  let first_right = seen.x / RIGHT * RIGHT;
  let steps = (max(seen.y, first_right) - first_right + RIGHT - 1u) / RIGHT;
  let scales = gradient_scales(tid);
  // dOut is scaled already, and P by 2^P_SHIFT
  let d_s_scale = scales.d_s / scales.d_out * exp2(-P_SHIFT);
  ${placeBackward}
  ${loadLeft(record, tile, queries, 'first_row')}
  ${declareSums('g', SUM_ROWS, tile.own)}

  let m = first_row + row;
  let visible = keys_of_rows(tile, m, 1u);
  let band = vec2u(visible.x, visible.y - visible.x);
  let stats = row_stats(tile, m);
  let lse = vec4f(P_SHIFT - stats.x * ${Math.LOG2E});
  let delta = vec4f(-stats.y * scales.d_s * exp2(-P_SHIFT));
  ${walkRight(tile, { side: keys, lse: ['lse', 'lse'], delta: ['delta', 'delta'], fetchStats: '', putStats: '' }, false)}

  let factor = u.scale / scales.d_s;
  ${storeGradients(tile, storeDq(record))}
}
`;
}

export function storeDq({ DR }: OperandConstants): string {
  const rope = `else if (column - 2u * DN_UNITS < DR4) { d_q_store(q_start(tile, first_row + at) + DN, column - 2u * DN_UNITS, DR, value * factor); }`;
  return `
    if (first_row + at < u.sq * GROUP) {
      if (column < 2u * DN_UNITS) {
        if (column < DN4) { d_q_store(q_start(tile, first_row + at), column, DN, value * factor); }
      } ${DR > 0 ? rope : ''}
    }`;
}
