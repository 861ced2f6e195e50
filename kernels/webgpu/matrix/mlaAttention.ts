/**
 * MLAAttention on subgroup matrices, F1-F4 of gradients/README.md.
 *
 * Grid: some (batch · key/value heads) × tiles of ROWS packed rows, longest first × splits of the keys.
 * Subgroups keep the queries and sums of their rows in matrices and walk over the keys, KEYS at a time:
 *   scores = Q·Kᵀ                  matrices → arena
 *   softmax, THREADS / ROWS threads a row (onlineSoftmax.ts)  → weights, in the form of the operands (form.ts)
 *   out += weights·V
 * Keys and values come as halves (halves.ts), or from their tensors where matrices are of float32.
 */
import type { MlaProblem } from '../../../src/core/problem.js';
import {
  declareLengths,
  declareRows,
  keyColumns,
  operandBindings,
  operandSizes,
  queryColumns,
  tileRows,
  valueColumns,
  visibility,
  widthOf,
} from '../operands.js';
import type { Binding } from '../operands.js';
import { forwardConstants } from '../mlaAttention.js';
import type { ForwardConstants } from '../mlaAttention.js';
import { problemUniforms } from '../problemUniforms.js';
import { constants, loadOf, repeat } from '../wgsl.js';
import { matrixUnits, unitCounts, unitSize } from './form.js';
import type { MatrixForm } from './form.js';
import { queryUnits } from './halves.js';
import { THREADS } from './choose.js';
import { operandScales } from './operandScales.js';
import {
  finishRow,
  keysOfSplit,
  meetScores,
  softmaxConstants,
  startRow,
  storeOutput,
  visibleOr,
  walkTwice,
  weightOf,
} from './onlineSoftmax.js';
import type { ForwardTile, ForwardWork } from './forwardTile.js';
import { loadQueries, matrixSteps } from './forwardQueries.js';
import { SUM_KEYS, readScales, walkInShares } from './forwardShares.js';
import {
  addWeightedRows,
  byGroup,
  declareSums,
  halvesOf,
  headOfGroup,
  resetSums,
  splitHalvesOf,
  storeRows,
  matrixHead,
  multiplyRows,
  storeSums,
  mainHead,
} from './wgsl.js';
import {
  clearPadding,
  declareUnits,
  fetchRows,
  floatRows,
  keyRows,
  putRows,
  stageRows,
  valueRows,
} from './staging.js';
import type { Copied } from './staging.js';

/** The tensors that are read in vec4 columns. */
function tensorsOf(record: ForwardConstants, { operand }: MatrixForm): string[] {
  return operand === 'f16' ? ['q'] : operandBindings(record).map(({ name }) => name);
}

export function matrixForwardBindings(record: ForwardConstants, form: MatrixForm): Binding[] {
  const names = tensorsOf(record, form);
  if (form.operand === 'f16') names.push('halves');
  if (form.parts === 2) names.push('maxima');
  if (record.HAS_Q_LENGTHS) names.push('q_lengths');
  if (record.HAS_KV_LENGTHS) names.push('kv_lengths');
  return [
    ...names.map((name): Binding => ({ name, access: 'read' })),
    { name: 'out', access: 'write' },
    { name: 'lse', access: 'write' },
  ];
}

export function matrixForwardWork(problem: MlaProblem, form: MatrixForm): ForwardWork {
  const record = forwardConstants(problem);
  const { QK_UNITS, DV_UNITS } = unitCounts(record, form);
  const units = matrixUnits(form);
  return {
    rows: problem.sq * record.GROUP,
    keys: problem.skv,
    problems: problem.b * problem.hkv,
    seen: problem.causal === 'none' ? 1 : 1 - Math.min(problem.sq, problem.skv) / (2 * problem.skv),
    steps: Math.ceil(QK_UNITS / units.depth),
    columns: Math.ceil(DV_UNITS / units.columns),
    staged: QK_UNITS + DV_UNITS,
  };
}

export function matrixAttentionWgsl(record: ForwardConstants, tile: ForwardTile): string {
  const { ROWS, COLUMN_GROUPS, KEYS, ROW_GROUPS, form, copiers } = tile;
  const { parts } = form;
  const bindings = matrixForwardBindings(record, form);
  const binding = (name: string): number => bindings.findIndex((candidate) => candidate.name === name);
  const sums = tile.columns / COLUMN_GROUPS;
  const groups = { rowGroup: 'row_group', columnGroup: 'column_group', columnGroups: COLUMN_GROUPS };
  const ROW_THREADS = THREADS / ROWS;
  const counts = unitCounts(record, form);
  const { QK_UNITS, DV_UNITS } = counts;
  const padding = clearPadding(tile.keys, KEYS, QK_UNITS) + clearPadding(tile.values, KEYS, DV_UNITS);
  const reset = resetSums('o', 1, sums);
  const walk = (from: string, to: string): string => walkKeys(record, tile, from, to);
  const store = (statement: string): string =>
    storeRows(
      { name: 'o', rows: ROWS, rowTiles: 1, own: sums, arena: tile.arena, ...groups },
      statement,
      form,
    );
  return `
${matrixHead(form)}
${operandSizes(record)}
${constants({
  ...counts,
  THREADS,
  ROW_COPIERS: copiers,
  ROWS,
  KEYS,
  ROW_GROUPS,
  ROW_THREADS,
  ...(parts === 2 ? { SUM_KEYS } : {}),
  ROW_PART: (KEYS * ROWS) / THREADS,
  SCORES: tile.scores.at,
  SCORE_STRIDE: tile.scores.stride,
  WEIGHTS: tile.weights.at,
  WEIGHT_STRIDE: tile.weights.stride,
  // of the rows of one subgroup
  SCORE_ROWS: form.m * tile.scores.stride,
  WEIGHT_ROWS: form.m * tile.weights.stride,
  GROUP_SCORES: KEYS / 4 / COLUMN_GROUPS,
})}
${problemUniforms(bindings.length)}
${declareRows(bindings, [...tensorsOf(record, form), 'out'], widthOf(record))}
${parts === 1 ? '' : loadOf('out', widthOf(record))}
${declareLengths(bindings)}
${form.operand === 'f16' ? declareUnits(bindings, ['halves']) : ''}
@group(0) @binding(${binding('lse')}) var<storage, read_write> lse: array<f32>;
var<workgroup> arena: array<vec4u, ${tile.arena}>;
${softmaxConstants(form)}
${tileRows}
${queryColumns(record)}
${visibility}
${operandsOf(record, form, binding('maxima'))}
${queryUnits(record, form)}

${mainHead(form)}
  ${headOfGroup}
  let tile = Tile(batch, kv_head, q_lengths_of(batch, u.sq), kv_lengths_of(batch, u.skv));
  let first_row = (u.tiles - 1u - group.y) * ROWS;
  let split = group.z % u.splits;
  ${keysOfSplit}

  let row_group = subgroup % ROW_GROUPS;
  let column_group = subgroup / ROW_GROUPS;
  let scores_at = SCORES + row_group * SCORE_ROWS;
  let weights_at = WEIGHTS + row_group * WEIGHT_ROWS;
  let copy_row = tid / ROW_COPIERS;
  let copy_unit = tid % ROW_COPIERS;
  ${parts === 1 ? '' : readScales}
  ${loadQueries(record, tile)}
  ${declareSums('o', 1, sums)}

  // the threads of a row each look after ROW_PART of its scores
  let row = tid / ROW_THREADS;
  let part = tid % ROW_THREADS;
  let soft_at = SCORES + row * SCORE_STRIDE + part * (ROW_PART / 4u);
  ${startRow(parts === 1 ? undefined : 'product_unit')}
  ${parts === 1 ? padding : ''}
  ${
    parts === 1
      ? `${walkTwice(ROW_THREADS, reset, walk('first_key', 'end_key'))}
  ${finishRow(ROW_THREADS, 'part == 0u')}
  ${store(storeOutput)}`
      : walkTwice(ROW_THREADS, '', walkInShares(ROW_THREADS, `${reset}${padding}`, walk, store))
  }
}
`;
}

/** What operands are read with, or made by. */
function operandsOf(record: ForwardConstants, { operand, parts }: MatrixForm, maxima: number): string {
  if (operand === 'f32') return `${keyColumns(record)}${valueColumns(record)}`;
  return parts === 1 ? halvesOf : splitHalvesOf + operandScales(maxima, THREADS);
}

/** A step is four phases with a barrier behind each; what the next one needs is under way during the softmax. */
function walkKeys(record: ForwardConstants, tile: ForwardTile, from: string, to: string): string {
  const nextKeys = stagedKeys(record, tile, 'next_key');
  const values = stagedValues(record, tile, 'key');
  return `
    { ${stageRows(stagedKeys(record, tile, from), tile.copiers)} }
    workgroupBarrier();
    let steps = (${to} - ${from} + KEYS - 1u) / KEYS;
    for (var step = 0u; step < steps; step++) {
      let key = ${from} + step * KEYS;
      let next_key = min(key + KEYS, ${to} - 1u);
      ${scores(record, tile)}
      workgroupBarrier();
      ${fetchRows([...nextKeys, ...values], tile.copiers)}
      ${softmax(tile, 'key')}
      ${putRows(nextKeys, tile.copiers)}
      ${putRows(values, tile.copiers)}
      workgroupBarrier();
      ${addValues(tile)}
    }
    workgroupBarrier();`;
}

function stagedKeys(record: ForwardConstants, { form, keys }: ForwardTile, key: string): Copied[] {
  if (form.operand === 'f16') return keyRows(record, keys, key);
  return floatRows('k', unitCounts(record, form).QK_UNITS, keys, key);
}

function stagedValues(record: ForwardConstants, { form, values }: ForwardTile, key: string): Copied[] {
  if (form.operand === 'f16') return valueRows(record, values, key);
  return floatRows('v', unitCounts(record, form).DV_UNITS, values, key);
}

/** F1: scores of this subgroup's rows and keys. */
function scores(
  record: ForwardConstants,
  { COLUMN_GROUPS, KEYS, form, keys, scores: to }: ForwardTile,
): string {
  const own = KEYS / form.n / COLUMN_GROUPS;
  const all = [...Array(own).keys()];
  return byGroup(
    'column_group',
    COLUMN_GROUPS,
    (group) => `
    ${declareSums('s', 1, own)}
    ${multiplyRows(
      's',
      'q',
      1,
      matrixSteps(record, form),
      all.map((c) => group * own + c),
      keys,
      form,
    )}
    ${storeSums('s', 1, all, 'scores_at + column_group * GROUP_SCORES', to.stride, form)}`,
  );
}

/** F2, F3 so far: weights in place of scores, without branches. */
function softmax({ ROWS, KEYS, form, weights, scores: from }: ForwardTile, key: string): string {
  const part = (KEYS * ROWS) / THREADS;
  const quads = part / 4;
  const units = part / unitSize(form);
  const at = weights.at === from.at ? 'soft_at' : `WEIGHTS + row * WEIGHT_STRIDE + part * ${units}u`;
  return `
    let column = ${key} + part * ROW_PART - band.x;
    ${repeat(quads, (i) => `var x${i} = ${visibleOr('HIDDEN', `bitcast<vec4f>(arena[soft_at + ${i}u])`, 4 * i)};`)}
    var most = x0;
    ${repeat(quads - 1, (i) => `most = max(most, x${i + 1});`)}
    var part_max = max(max(most.x, most.y), max(most.z, most.w));
    ${meetScores(THREADS / ROWS)}
    ${repeat(quads, (i) => `x${i} = ${weightOf(`x${i}`)};`)}
    let sum4 = ${[...Array(quads).keys()].map((i) => `x${i}`).join(' + ')};
    row_sum += (sum4.x + sum4.y) + (sum4.z + sum4.w);
    ${repeat(units, (i) => {
      if (form.operand === 'f32') return `arena[${at} + ${i}u] = bitcast<vec4u>(x${i});`;
      const [a, b] = [`x${2 * i}`, `x${2 * i + 1}`];
      if (form.parts === 1)
        return `arena[${at} + ${i}u] = vec4u(pack2x16float(${a}.xy), pack2x16float(${a}.zw), pack2x16float(${b}.xy), pack2x16float(${b}.zw));`;
      return `arena[${at} + ${i}u] = high_halves(${a}, ${b});
    arena[${at} + ${i}u + KEYS / 8u] = low_halves(${a}, ${b});`;
    })}`;
}

/** F4: weights of this subgroup's rows times its columns of the values. */
function addValues({
  ROWS,
  KEYS,
  COLUMN_GROUPS,
  columns,
  form,
  values,
  weights,
  scores: from,
}: ForwardTile): string {
  const own = columns / COLUMN_GROUPS;
  const part = (KEYS * ROWS) / THREADS;
  // in place a thread's weights begin where its scores did: as halves they leave as much behind them
  const weightAt = (k: number): number =>
    weights.at === from.at
      ? Math.floor((k * form.k) / part) * (part / 4) + ((k * form.k) % part) / unitSize(form)
      : k * matrixUnits(form).depth;
  return byGroup('column_group', COLUMN_GROUPS, (group) =>
    addWeightedRows(
      'o',
      1,
      KEYS / form.k,
      [...Array(own).keys()].map((c) => group * own + c),
      values,
      (_r, k) => `weights_at + ${weightAt(k)}u`,
      weights.stride,
      0,
      form,
    ),
  );
}
