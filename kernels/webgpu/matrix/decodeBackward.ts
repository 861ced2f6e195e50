/**
 * The steps that MLADecodeDq and MLADecodeDkv on subgroup matrices have in common, B2-B7 of gradients/README.md. It is
 * backward.ts for rows too wide for it: subgroups share the depth of the products.
 *
 * A workgroup owns LEFT rows and walks over the rows of the other side, RIGHT at a time; the cache is key and value:
 *   …Dq  left: queries and dOut, right: the cache; …Dkv  left: the cache, right: queries and dOut
 *   scores = left₁ · right₁ᵀ, dP = left₂ · right₂ᵀ   each subgroup sixteen rows, one of the two and a part of its depth, of
 *                                                    which the left matrices stay; → arena
 *   P = 2^(scores − lse), dS = P · (dP − delta)      four threads a row add the parts; halves in their place
 *   sums += dS · right₁, and in …Dkv also P · right₂ each subgroup sixteen rows and a part of the columns
 *
 * dOut comes in the range of halves, times d_out (gradientScales.ts). Since both terms of dCkv go into the same sums, one
 * factor, d_out · 2^p_shift, must be that of both: P is taken times 2^p_shift, and dS times |softmaxScale| and that factor.
 */
import type { MlaProblem } from '../../../src/core/problem.js';
import { declareRows, operandConstants, operandSizes, tileRows, visibility, widthOf } from '../operands.js';
import type { Binding, OperandConstants } from '../operands.js';
import { readStats } from '../packStats.js';
import { problemUniforms } from '../problemUniforms.js';
import { constants, repeat } from '../wgsl.js';
import { backwardInputs, walkSteps } from './backward.js';
import type { Side } from './backward.js';
import { cacheBindings, cacheUnits, packedCache } from './cacheRows.js';
import { THREADS } from './choose.js';
import {
  COLUMN_GROUPS,
  COPIERS,
  DEPTH_GROUPS,
  LEFT,
  RIGHT,
  ROW_GROUPS,
  SCORE_UNITS,
  layOutDecodeBackward,
} from './decodeBackwardTile.js';
import type { DecodeBackwardTile } from './decodeBackwardTile.js';
import { gradientScales, maximaBinding } from './gradientScales.js';
import { unitCounts } from './form.js';
import { visibleOr } from './onlineSoftmax.js';
import { clearPadding, declareUnits, stageRows } from './staging.js';
import type { Copied } from './staging.js';
import {
  EDGE,
  EDGE_UNITS,
  LANES,
  addWeightedRows,
  byGroup,
  declareSums,
  halvesOf,
  matrixHead,
  multiplyRows,
  storeRows,
  storeSums,
} from './wgsl.js';

export interface DecodeBackwardConstants extends OperandConstants {
  /** 0: …Dq */
  IS_DKV: number;
}

export function decodeBackwardConstants(problem: MlaProblem, isDkv: boolean): DecodeBackwardConstants {
  return { ...operandConstants(problem), IS_DKV: isDkv ? 1 : 0 };
}

export function decodeBackwardTile(record: DecodeBackwardConstants): DecodeBackwardTile {
  const { QK_UNITS, DV_UNITS } = unitCounts(record);
  return layOutDecodeBackward({ units: QK_UNITS, valueUnits: DV_UNITS }, record.IS_DKV === 1);
}

export function decodeBackwardBindings(record: DecodeBackwardConstants): Binding[] {
  const { IS_DKV, DR } = record;
  const output = IS_DKV ? 'd_k' : 'd_q';
  const written = DR > 0 ? [output, `${output}_rope`] : [output];
  return [
    ...backwardInputs(IS_DKV ? 'write' : 'read'),
    ...cacheBindings(record),
    ...written.map((name): Binding => ({ name, access: 'write' })),
  ];
}

/** What stands at the head of both shaders. */
export function decodeBackwardHead(record: DecodeBackwardConstants, tile: DecodeBackwardTile): string {
  const bindings = decodeBackwardBindings(record);
  const inUnits = ['halves', ...packedCache(record)];
  const rows = bindings
    .map(({ name }) => name)
    .filter((name) => !['stats', 'maxima', ...inUnits].includes(name));
  return `
${matrixHead()}
${operandSizes(record)}
${constants({
  ...unitCounts(record),
  THREADS,
  COPIERS,
  LEFT,
  RIGHT,
  ROW_GROUPS,
  SOFT_SUBGROUPS: (LEFT * 4) / LANES,
  PRODUCTS: tile.products.at,
  PRODUCT_STRIDE: tile.products.stride,
  PART_PRODUCTS: LEFT * tile.products.stride,
  SCORE_UNITS,
})}
${problemUniforms(bindings.length)}
${declareRows(bindings, rows, widthOf(record))}
${declareUnits(bindings, inUnits)}
${readStats(
  bindings.findIndex(({ name }) => name === 'stats'),
  'read',
)}
${tileRows}
${visibility}
${halvesOf}
${cacheUnits(record)}
${gradientScales(maximaBinding(bindings), THREADS)}
var<workgroup> arena: array<vec4u, ${tile.arena}>;
// in powers of two: P as halves is at most that much larger
const MOST_SHIFT = 14.0;`;
}

/** Where this thread and its subgroup are, and how numbers are scaled. Needs tid, subgroup, batch. */
export const placeDecodeBackward = `
  let lengths = lengths_of(batch);
  let tile = Tile(batch, 0u, lengths.x, lengths.y);
  // there is one key/value head
  let head = batch;
  let copy_row = tid / COPIERS;
  let copy_unit = tid % COPIERS;
  // products: one of scores and dP, and a part of its depth; sums: a part of the columns
  let row_group = subgroup % ROW_GROUPS;
  let column_group = subgroup / ROW_GROUPS;
  let product = column_group % 2u;
  let depth_group = column_group / 2u;
  let weights_at = PRODUCTS + row_group * (16u * PRODUCT_STRIDE);
  let products_at = weights_at + depth_group * PART_PRODUCTS + product * SCORE_UNITS;
  // weights: four threads a row, four staged rows each
  let row = min(tid / 4u, LEFT - 1u);
  let part = tid % 4u;
  let soft_at = PRODUCTS + row * PRODUCT_STRIDE;
  let scales = gradient_scales(tid);
  let scale = abs(u.scale);
  // neither P nor dS overflows
  let p_shift = min(MOST_SHIFT, log2(scales.d_s / (scales.d_out * scale)));
  let delta_scale = -scales.d_out * scale;
  let sum_scale = exp2(-p_shift) / scales.d_out;`;

/** What the left matrices of some subgroups are loaded from. */
export interface Left {
  rows: Side['first'];
  units: number;
  /** 0: for scores, 1: for dP, absent: for both */
  product?: number;
}

/** Left rows through the arena into matrices a, sixteen at a time: of each subgroup its rows and its part of the depth. */
export function loadLeft(
  { first: { stride }, ownSteps }: DecodeBackwardTile,
  all: Left[],
  row: string,
): string {
  const loadRows = (group: number, { rows, units, product }: Left): string => `
  { ${stageRows(rows({ at: 0, stride }, `${row} + ${group * EDGE}u`), COPIERS)} }
  ${clearPadding({ at: 0, stride }, EDGE, units)}
  workgroupBarrier();
  if (row_group == ${group}u${product === undefined ? '' : ` && product == ${product}u`}) {
    ${repeat(ownSteps, (k) => `a0_${k} = subgroupMatrixLoad<Left, row_major>(&arena, depth_group * ${ownSteps * EDGE_UNITS}u + ${k * EDGE_UNITS}u, ${stride}u);`)}
  }
  workgroupBarrier();`;
  return `
  ${repeat(ownSteps, (k) => `var a0_${k} = Left();`)}
  ${repeat(ROW_GROUPS, (group) => all.map((left) => loadRows(group, left)).join('\n'))}`;
}

export interface DecodeWalk {
  /** the right rows from `row` on */
  staged: (row: string) => Copied[];
  /** WGSL for p_shift − lse and −delta of a thread's four weights, scaled */
  lse: string;
  delta: string;
  /** as in backward.ts */
  fetchStats: string;
  putStats: string;
}

/** The walk over the right rows, `steps` times RIGHT of them from `first_right` on. Needs band. */
export function walkDecode(
  record: DecodeBackwardConstants,
  tile: DecodeBackwardTile,
  walk: DecodeWalk,
): string {
  const { QK_UNITS, DV_UNITS } = unitCounts(record);
  return `
  ${clearPadding(tile.first, RIGHT, QK_UNITS)}
  ${record.IS_DKV ? clearPadding(tile.second, RIGHT, DV_UNITS) : ''}
  ${walkSteps({
    ...walk,
    copiers: COPIERS,
    products: products(tile),
    weights: `if (subgroup < SOFT_SUBGROUPS) { ${weights(walk)} }`,
    addSums: addSums(tile, record.IS_DKV === 1),
  })}`;
}

/** F1, B2: a part of the depth of sixteen rows with the staged rows. */
function products({ steps, valueSteps, ownSteps, first, second, products: to }: DecodeBackwardTile): string {
  return byGroup('column_group', COLUMN_GROUPS, (group) => {
    const from = Math.floor(group / 2) * ownSteps;
    const [place, depth] = group % 2 === 0 ? [first, steps] : [second, valueSteps];
    const count = Math.max(0, Math.min(ownSteps, depth - from));
    return `
    ${declareSums('s', 1, 1)}
    ${multiplyRows('s', 'a', 1, count, [0], { at: place.at + from * EDGE_UNITS, stride: place.stride })}
    ${storeSums('s', 1, [0], 'products_at', to.stride)}`;
  });
}

/**
 * F3, B3. Two threads have eight weights of each sort: they exchange, and one writes both shares of P, the other both of
 * dS, over products that none but these two have read: so the sixteen of a row lie together, one unit in.
 */
function weights({ lse, delta }: DecodeWalk): string {
  const sum = (first: string): string =>
    [...Array(DEPTH_GROUPS).keys()]
      .map((i) => `bitcast<vec4f>(arena[soft_at + part + ${i}u * PART_PRODUCTS${first}])`)
      .join(' + ');
  const p = `exp2(min(fma(${sum('')}, vec4f(scale * ${Math.LOG2E}), ${lse}), vec4f(p_shift)))`;
  const dS = `p4 * fma(${sum(' + SCORE_UNITS')}, vec4f(scale), ${delta})`;
  return `
    let column = right + part * 4u - band.x;
    let p4 = ${visibleOr('0.0', p, 0)};
    let d_s4 = ${visibleOr('0.0', dS, 0)};
    let p = vec2u(pack2x16float(p4.xy), pack2x16float(p4.zw));
    let d_s = vec2u(pack2x16float(d_s4.xy), pack2x16float(d_s4.zw));
    let is_even = part % 2u == 0u;
    let other = subgroupShuffleXor(select(p, d_s, is_even), 1u);
    if (tid < 4u * LEFT) {
      arena[soft_at + select(SCORE_UNITS, 0u, is_even) + 1u + part / 2u] = select(vec4u(other, d_s), vec4u(p, other), is_even);
    }`;
}

/** B4, or B5-B7: sixteen rows of weights times a part of the columns of the staged rows. */
function addSums(
  { steps, valueSteps, own, first, second, products: { stride } }: DecodeBackwardTile,
  isDkv: boolean,
): string {
  return byGroup('column_group', COLUMN_GROUPS, (group) => {
    const columns = (all: number): number[] =>
      [...Array(own).keys()].map((c) => group * own + c).filter((c) => c < all);
    return `
    ${isDkv ? addWeightedRows('g', 1, 1, columns(valueSteps), second, () => 'weights_at + 1u', stride) : ''}
    ${addWeightedRows('g', 1, 1, columns(steps), first, () => 'weights_at + SCORE_UNITS + 1u', stride)}`;
  });
}

/** `store` is WGSL as storeRows() wants it. */
export function storeDecodeGradients({ own, arena }: DecodeBackwardTile, store: string): string {
  const groups = { rowGroup: 'row_group', columnGroup: 'column_group', columnGroups: COLUMN_GROUPS };
  return storeRows({ name: 'g', rows: LEFT, rowTiles: 1, own, arena, ...groups }, store);
}

/** What to store of a row: its latent columns, and those of its rope part, which start on a unit of their own. */
export function storeParts({ DR }: OperandConstants, nope: string, rope: string): string {
  const ofRope = DR > 0 ? `else if (column - 2u * DN_UNITS < DR4) { ${rope} }` : '';
  return `if (column < 2u * DN_UNITS) { if (column < DN4) { ${nope} } } ${ofRope}`;
}
