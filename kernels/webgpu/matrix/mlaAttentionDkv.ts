/**
 * MLAAttentionDkv on subgroup matrices, B2, B3, B5-B7 of gradients/README.md; the steps are in backward.ts.
 * Grid: some (batch · key/value heads) × tiles of LEFT keys; under a causal mask the first have most rows to see.
 * With KEEPS_DS dSᵀ is kept for dqOfDs.ts, [head of the dispatch, key, packed rows] in halves. The heads' shares of
 * dKRope go to `d_k_rope_shares`, one behind the other, and sumParts.ts adds them.
 */
import type { MlaProblem } from '../../../src/core/problem.js';
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
import { RIGHT, SUM_ROWS, layOutBackward } from './backwardTile.js';
import type { BackwardTile } from './backwardTile.js';
import { declareSums, headOfGroup, mainHead } from './wgsl.js';

/** Units of a row of dSᵀ: whole steps of RIGHT packed rows. */
export function dsRowUnits({ sq, hq, hkv }: Pick<MlaProblem, 'sq' | 'hq' | 'hkv'>): number {
  return (Math.ceil((sq * hq) / hkv / RIGHT) * RIGHT) / 8;
}

export interface DkvConstants extends OperandConstants {
  KEEPS_DS: number;
}

export function matrixDkvBindings({ DR, KEEPS_DS }: DkvConstants): Binding[] {
  const names = ['d_k', 'd_v'];
  if (DR > 0) names.push('d_k_rope_shares');
  if (KEEPS_DS) names.push('ds');
  return [...backwardInputs('write'), ...names.map((name): Binding => ({ name, access: 'write' }))];
}

export function matrixDkvTile(record: OperandConstants): BackwardTile {
  return layOutBackward(backwardWork(record, true));
}

export function matrixDkvWgsl(record: DkvConstants): string {
  const tile = matrixDkvTile(record);
  const { queries, keys } = sidesOf(record);
  const bindings = matrixDkvBindings(record);
  const written = bindings.map(({ name }) => name).filter((name) => name.startsWith('d_'));
  const ds = bindings.findIndex(({ name }) => name === 'ds');
  return `
${backwardHead(record, tile, bindings, written)}
${record.KEEPS_DS ? `@group(0) @binding(${ds}) var<storage, read_write> ds: array<vec4u>;` : ''}
// −lse and −delta of the staged rows, as the weights want them
var<workgroup> lse_of_right: array<vec4f, ${RIGHT / 4}>;
var<workgroup> delta_of_right: array<vec4f, ${RIGHT / 4}>;

${mainHead()}
  ${headOfGroup}
  let lengths = lengths_of(batch);
  let tile = Tile(batch, kv_head, lengths.x, lengths.y);
  let first_key = group.y * LEFT;
  let seeing = rows_of_keys(tile, first_key, LEFT);
  let first_right = seeing.x / RIGHT * RIGHT;
  let steps = (max(seeing.y, first_right) - first_right + RIGHT - 1u) / RIGHT;
  let scales = gradient_scales(tid);
  // dOut is scaled already, and P by 2^P_SHIFT
  let d_s_scale = scales.d_s / scales.d_out * exp2(-P_SHIFT);
  ${placeBackward}
  ${loadLeft(record, tile, keys, 'first_key')}
  ${declareSums('g', SUM_ROWS, tile.own)}

  let visible = rows_of_keys(tile, first_key + row, 1u);
  let band = vec2u(visible.x, visible.y - visible.x);
  let delta_scale = -scales.d_s * exp2(-P_SHIFT);
  ${record.KEEPS_DS ? keepPlace : ''}
  ${walkRight(
    tile,
    {
      side: queries,
      lse: ['lse_of_right[2u * part]', 'lse_of_right[2u * part + 1u]'],
      delta: ['delta_of_right[2u * part]', 'delta_of_right[2u * part + 1u]'],
      fetchStats: `let stats = row_stats(tile, $row + tid % RIGHT);`,
      putStats: `
    if (tid < RIGHT) {
      lse_of_right[tid / 4u][tid % 4u] = fma(stats.x, -${Math.LOG2E}, P_SHIFT);
      delta_of_right[tid / 4u][tid % 4u] = stats.y * delta_scale;
    }`,
      keep: record.KEEPS_DS ? keepDs : '',
    },
    true,
  )}

  let value_factor = exp2(-P_SHIFT) / scales.d_out;
  let key_factor = abs(u.scale) / scales.d_s;
  ${storeGradients(tile, storeDkv(record, tile))}
}
`;
}

/** Where this thread's key has its row of dSᵀ. */
const keepPlace = `
  let ds_row_units = (u.sq * GROUP + RIGHT - 1u) / RIGHT * (RIGHT / 8u);
  let ds_at = (head_in_dispatch * u.skv + first_key + row) * ds_row_units + part - 1u;`;

const keepDs = `
    if (part % 2u == 1u && first_key + row < u.skv) {
      ds[ds_at + right / 8u] = other;
      ds[ds_at + right / 8u + 1u] = d_s;
    }`;

/** The first columns of the sums are dV's, then come dK's, the rope part on a unit of its own. */
function storeDkv({ DN, DR }: OperandConstants, { valueSteps }: BackwardTile): string {
  const nope = `if (key_column < DN4) { d_k_store(tile.batch * u.k_b + j * u.k_s + tile.kv_head * u.k_h, key_column, DN, value * key_factor); }`;
  const rope = `if (key_column - 2u * DN_UNITS < DR4) { d_k_rope_shares_store(tile.kv_head * u.batch * u.skv * DR + tile.batch * u.k_rope_b + j * u.k_rope_s, key_column - 2u * DN_UNITS, DR, value * key_factor); }`;
  const isNope = 'key_column < 2u * DN_UNITS';
  const store =
    DR === 0 ? `if (${isNope}) { ${nope} }` : DN === 0 ? rope : `if (${isNope}) { ${nope} } else { ${rope} }`;
  return `
    let j = first_key + at;
    if (j < u.skv) {
      if (column < ${4 * valueSteps}u) {
        if (column < DV4) { d_v_store(tile.batch * u.v_b + j * u.v_s + tile.kv_head * u.v_h, column, DV, value * value_factor); }
      } else {
        let key_column = column - ${4 * valueSteps}u;
        ${store}
      }
    }`;
}
