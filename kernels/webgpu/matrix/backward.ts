/**
 * The steps that …Dq and …Dkv on subgroup matrices have in common, B2-B7 of gradients/README.md.
 *
 * A workgroup owns LEFT rows, whose two operands stay in matrices, and walks over the rows of the other side, RIGHT at
 * a time:
 *   …Dq  left: queries and dOut, right: keys and values; …Dkv  left: keys and values, right: queries and dOut
 *   scores = left₁ · right₁ᵀ, dP = left₂ · right₂ᵀ              matrices → arena
 *   P = 2^(scores − lse), dS = P · (dP − delta), as halves      in their place, four threads a row
 *   sums += dS · right₁, and in …Dkv also P · right₂
 * dOut and dS are scaled by powers of two into the range of halves (gradientScales.ts), P by 2^8. P is at most 1, also
 * where scores are so large that lse is rounded by more.
 */
import type { OperandConstants } from '../operands.js';
import { declareRows, operandSizes, tileRows, visibility, widthOf } from '../operands.js';
import type { Binding } from '../operands.js';
import { readStats } from '../packStats.js';
import { problemUniforms } from '../problemUniforms.js';
import { constants, repeat } from '../wgsl.js';
import { LEFT, RIGHT, SUM_GROUPS, SUM_ROWS } from './backwardTile.js';
import type { BackwardTile, BackwardWork } from './backwardTile.js';
import { THREADS } from './choose.js';
import { gradientScales, maximaBinding } from './gradientScales.js';
import { unitCounts } from './form.js';
import { visibleOr } from './onlineSoftmax.js';
import {
  ROW_COPIERS,
  clearPadding,
  declareUnits,
  fetchRows,
  gradientRows,
  keyRows,
  putRows,
  queryRows,
  stageRows,
  valueRows,
} from './staging.js';
import type { Copied, Place } from './staging.js';
import {
  EDGE,
  EDGE_UNITS,
  addWeightedRows,
  byGroup,
  declareSums,
  loadLefts,
  matrixHead,
  multiplyRows,
  storeRows,
  storeSums,
} from './wgsl.js';

/** The rows of one side in the arena: what is multiplied for scores, and for dP. */
export interface Side {
  first: (place: Place, row: string) => Copied[];
  second: (place: Place, row: string) => Copied[];
}

export function sidesOf(record: OperandConstants): { queries: Side; keys: Side } {
  return {
    queries: {
      first: (place, row) => queryRows(record, place, row),
      second: (place, row) => gradientRows(record, place, row),
    },
    keys: {
      first: (place, row) => keyRows(record, place, row),
      second: (place, row) => valueRows(record, place, row),
    },
  };
}

export function backwardWork(record: OperandConstants, hasValueSums: boolean): BackwardWork {
  const { QK_UNITS, DV_UNITS } = unitCounts(record);
  const [steps, valueSteps] = [QK_UNITS, DV_UNITS].map((units) => Math.ceil(units / EDGE_UNITS));
  return { steps, valueSteps, sums: steps + (hasValueSums ? valueSteps : 0) };
}

/**
 * What both shaders read. `halves` is bound as if it were written where that keeps the compiler from moving loads to
 * where their values are used, behind the barriers that were to hide them: …Dkv is a sixth faster so, …Dq slower.
 */
export function backwardInputs(halves: Binding['access']): Binding[] {
  return [
    { name: 'halves', access: halves },
    { name: 'stats', access: 'read' },
    { name: 'maxima', access: 'read' },
  ];
}

/** What stands at the head of both shaders; `written` are the bindings that are written in rows of columns. */
export function backwardHead(
  record: OperandConstants,
  tile: BackwardTile,
  bindings: Binding[],
  written: string[],
): string {
  const binding = (name: string): number => bindings.findIndex((candidate) => candidate.name === name);
  return `
${matrixHead()}
${operandSizes(record)}
${constants({
  ...unitCounts(record),
  THREADS,
  ROW_COPIERS,
  LEFT,
  RIGHT,
  SCORES: tile.scores.at,
  D_P: tile.dP.at,
  WEIGHT_STRIDE: tile.scores.stride,
})}
${problemUniforms(bindings.length)}
${declareRows(bindings, written, widthOf(record))}
${declareUnits(bindings, ['halves'])}
${readStats(binding('stats'), 'read')}
${tileRows}
${visibility}
${gradientScales(maximaBinding(bindings), THREADS)}
var<workgroup> arena: array<vec4u, ${tile.arena}>;
// in powers of two: P as halves is that much larger
const P_SHIFT = 8.0;`;
}

/** Where this thread and its subgroup are. Needs tid, subgroup. */
export const placeBackward = `
  let copy_row = tid / ROW_COPIERS;
  let copy_unit = tid % ROW_COPIERS;
  // scores and dP: sixteen rows and sixteen staged rows a subgroup; sums: half of the rows, a quarter of the columns
  let row_group = subgroup % 4u;
  let column_group = subgroup / 4u;
  let products_at = row_group * (16u * WEIGHT_STRIDE) + column_group * 4u;
  let sum_rows = subgroup % 2u;
  let sum_group = subgroup / 2u;
  let weights_at = sum_rows * (32u * WEIGHT_STRIDE);
  // weights: four threads a row, eight staged rows each
  let row = tid / 4u;
  let part = tid % 4u;
  let soft_at = row * WEIGHT_STRIDE + part * 2u;
  let scale = abs(u.scale) * ${Math.LOG2E};`;

/** Loads the operands of the left rows into matrices a (for scores) and b (for dP). */
export function loadLeft(record: OperandConstants, tile: BackwardTile, side: Side, first: string): string {
  const { QK_UNITS, DV_UNITS } = unitCounts(record);
  const half = THREADS / ROW_COPIERS;
  const load = (
    name: string,
    rows: Side['first'],
    { stride }: Place,
    steps: number,
    units: number,
  ): string => `
  ${repeat(LEFT / half, (i) => `{ ${stageRows(rows({ at: i * half * stride, stride }, `${first} + ${i * half}u`))} }`)}
  ${clearPadding({ at: 0, stride }, LEFT, units)}
  workgroupBarrier();
  ${loadLefts(name, 1, steps, `row_group * ${EDGE * stride}u`, stride)}
  workgroupBarrier();`;
  return `
  ${load('a', side.first, tile.first, tile.steps, QK_UNITS)}
  ${load('b', side.second, tile.second, tile.valueSteps, DV_UNITS)}
  ${clearPadding(tile.first, RIGHT, QK_UNITS)}
  ${clearPadding(tile.second, RIGHT, DV_UNITS)}`;
}

/** WGSL of what a step does, in this order. */
export interface Steps {
  /** the right rows from `row` on, and how many threads copy one */
  staged: (row: string) => Copied[];
  copiers?: number;
  products: string;
  weights: string;
  addSums: string;
  /** statements that fetch what else belongs to the staged rows from $row on, and put it */
  fetchStats: string;
  putStats: string;
}

/** The walk over the right rows, `steps` times RIGHT of them from `first_right` on. */
export function walkSteps(phases: Steps): string {
  const { staged, copiers, products, weights, addSums, fetchStats, putStats } = phases;
  return `
  {
    ${fetchRows(staged('first_right'), copiers)}
    ${fetchStats.replaceAll('$row', 'first_right')}
    ${putRows(staged('first_right'), copiers)}
    ${putStats}
  }
  workgroupBarrier();
  for (var step = 0u; step < steps; step++) {
    let right = first_right + step * RIGHT;
    ${products}
    workgroupBarrier();
    let next_right = right + RIGHT;
    ${fetchRows(staged('next_right'), copiers)}
    ${weights}
    ${fetchStats.replaceAll('$row', 'next_right')}
    workgroupBarrier();
    ${addSums}
    workgroupBarrier();
    ${putRows(staged('next_right'), copiers)}
    ${putStats}
    workgroupBarrier();
  }`;
}

export interface Walk extends Pick<Steps, 'fetchStats' | 'putStats'> {
  side: Side;
  /** WGSL for −lse and −delta of each four of a thread's eight weights, scaled */
  lse: [string, string];
  delta: [string, string];
  /** statements that keep dS: `d_s` is a thread's own share, `other` its neighbour's */
  keep?: string;
}

/** walkSteps() with this tile. Needs band, scale, d_s_scale. */
export function walkRight(tile: BackwardTile, walk: Walk, isDkv: boolean): string {
  const { side, fetchStats, putStats } = walk;
  return walkSteps({
    staged: (row) => [...side.first(tile.first, row), ...side.second(tile.second, row)],
    products: products(tile),
    weights: weights(walk, isDkv),
    addSums: addSums(tile, isDkv),
    fetchStats,
    putStats,
  });
}

/** F1, B2: scores and dP of this subgroup's rows and staged rows. */
function products({ steps, valueSteps, first, second, scores }: BackwardTile): string {
  return byGroup(
    'column_group',
    2,
    (group) => `
    ${declareSums('s', 1, 1)}
    ${declareSums('d', 1, 1)}
    ${multiplyRows('s', 'a', 1, steps, [group], first)}
    ${multiplyRows('d', 'b', 1, valueSteps, [group], second)}
    ${storeSums('s', 1, [0], 'SCORES + products_at', scores.stride)}
    ${storeSums('d', 1, [0], 'D_P + products_at', scores.stride)}`,
  );
}

/**
 * F3, B3: P and dS as halves. Two threads have sixteen scores of a row: they exchange, and one writes both shares of P
 * in place of its scores, the other both of dS in place of its dP, a whole matrix wide.
 */
function weights({ lse, delta, keep = '' }: Walk, isDkv: boolean): string {
  return `
    let column = right + part * 8u - band.x;
    ${repeat(2, (i) => {
      const p = `exp2(min(fma(bitcast<vec4f>(arena[SCORES + soft_at + ${i}u]), vec4f(scale), ${lse[i]}), vec4f(P_SHIFT)))`;
      const dS = `p${i} * fma(bitcast<vec4f>(arena[D_P + soft_at + ${i}u]), vec4f(d_s_scale), ${delta[i]})`;
      return `
    let p${i} = ${visibleOr('0.0', p, 4 * i)};
    let ds${i} = ${visibleOr('0.0', dS, 4 * i)};`;
    })}
    let d_s = vec4u(pack2x16float(ds0.xy), pack2x16float(ds0.zw), pack2x16float(ds1.xy), pack2x16float(ds1.zw));
    ${
      isDkv
        ? `let p = vec4u(pack2x16float(p0.xy), pack2x16float(p0.zw), pack2x16float(p1.xy), pack2x16float(p1.zw));
    let is_even = part % 2u == 0u;
    let other = subgroupShuffleXor(select(p, d_s, is_even), 1u);
    let weights_of = select(D_P, SCORES, is_even) + soft_at;
    arena[weights_of] = select(other, p, is_even);
    arena[weights_of + 1u] = select(d_s, other, is_even);
    ${keep}`
        : `let other = subgroupShuffleXor(d_s, 1u);
    if (part % 2u == 1u) {
      arena[D_P + soft_at] = other;
      arena[D_P + soft_at + 1u] = d_s;
    }`
    }`;
}

/** B4 or B5-B7: this subgroup's share of the sums. */
function addSums({ own, steps, valueSteps, first, second, scores }: BackwardTile, isDkv: boolean): string {
  const depth = RIGHT / EDGE;
  return byGroup('sum_group', SUM_GROUPS, (group) => {
    const all = [...Array(own).keys()].map((c) => group * own + c);
    const ofValues = isDkv ? all.filter((c) => c < valueSteps) : [];
    const start = isDkv ? valueSteps : 0;
    const ofKeys = all.map((c) => c - start).filter((c) => c >= 0 && c < steps);
    const add = (columns: number[], place: Place, at: string, firstSum: number): string =>
      columns.length === 0
        ? ''
        : addWeightedRows(
            'g',
            SUM_ROWS,
            depth,
            columns,
            place,
            (r, k) => `${at} + weights_at + ${r * EDGE * scores.stride + 4 * k}u`,
            scores.stride,
            firstSum,
          );
    return `
    ${add(ofValues, second, 'SCORES', 0)}
    ${add(ofKeys, first, `D_P + ${EDGE_UNITS}u`, ofValues.length)}`;
  });
}

/** `store` is WGSL as storeRows() wants it. */
export function storeGradients({ own, arena }: BackwardTile, store: string): string {
  const groups = { rowGroup: 'sum_rows', columnGroup: 'sum_group', columnGroups: SUM_GROUPS };
  return storeRows({ name: 'g', rows: LEFT, rowTiles: SUM_ROWS, own, arena, ...groups }, store);
}
