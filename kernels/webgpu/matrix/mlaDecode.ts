/**
 * MLADecode on subgroup matrices, F1-F4 of gradients/README.md over the latent cache, which is key and value (DeepSeek-V2,
 * arXiv:2405.04434, section 2.1.2; the walk over keys is split as in FlashDecoding).
 *
 * Grid: batch × tiles of ROWS packed rows × splits of the keys. A workgroup reads every key once for all of its rows:
 *   scores = Q·Kᵀ           each subgroup sixteen rows, sixteen keys and a part of the depth; matrices → arena
 *   softmax                 eight threads a row add the parts (onlineSoftmax.ts); weights as halves in the place of the first
 *   out += weights·K        each subgroup all rows and a part of the columns, from the very rows that were staged
 * Each split writes an output and an lse of
 * its own; mergeSplits.ts joins them.
 */
import type { MlaProblem } from '../../../src/core/problem.js';
import { forwardConstants } from '../mlaAttention.js';
import type { ForwardConstants } from '../mlaAttention.js';
import {
  declareLengths,
  declareRows,
  operandSizes,
  queryColumns,
  tileRows,
  visibility,
  widthOf,
} from '../operands.js';
import type { Binding } from '../operands.js';
import { problemUniforms } from '../problemUniforms.js';
import { constants, repeat, writable } from '../wgsl.js';
import { cacheBindings, cacheRows, cacheUnits, packedCache } from './cacheRows.js';
import { SUBGROUPS, THREADS } from './choose.js';
import { KEYS, KEY_GROUPS } from './decodeTile.js';
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
import type { DecodeTile, DecodeWork } from './decodeTile.js';
import { unitCounts } from './form.js';
import { queryUnits } from './halves.js';
import { ROW_COPIERS, clearPadding, declareUnits, fetchRows, putRows, stageRows } from './staging.js';
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
  resetSums,
  storeRows,
  storeSums,
  mainHead,
} from './wgsl.js';

export function matrixDecodeBindings(record: ForwardConstants): Binding[] {
  const read = (names: string[]): Binding[] => names.map((name) => ({ name, access: 'read' }));
  return [
    ...read(record.DR > 0 ? ['q', 'q_rope'] : ['q']),
    ...cacheBindings(record),
    ...read(record.HAS_KV_LENGTHS ? ['kv_lengths'] : []),
    { name: 'out', access: 'write' },
    { name: 'lse', access: 'write' },
  ];
}

export function matrixDecodeWork(problem: MlaProblem): DecodeWork {
  const record = forwardConstants(problem);
  const { QK_UNITS, DV_UNITS } = unitCounts(record);
  return {
    units: QK_UNITS,
    valueUnits: DV_UNITS,
    rows: problem.sq * record.GROUP,
    keys: problem.skv,
    batch: problem.b,
  };
}

export interface DecodeConstants extends ForwardConstants {
  /** 1 if the outputs of splits are halves, until they are merged */
  HALF_PARTS: number;
}

export function matrixDecodeWgsl(record: DecodeConstants, tile: DecodeTile): string {
  const { ROWS, ROW_GROUPS, own } = tile;
  const groups = { rowGroup: '0u', columnGroup: 'subgroup', columnGroups: SUBGROUPS };
  const bindings = matrixDecodeBindings(record);
  const binding = (name: string): number => bindings.findIndex((candidate) => candidate.name === name);
  const inUnits = packedCache(record);
  const rows = bindings
    .map(({ name }) => name)
    .filter((name) => !['kv_lengths', 'lse', 'out', ...inUnits].includes(name));
  const { QK_UNITS } = unitCounts(record);
  return `
${matrixHead()}
${operandSizes(record)}
${constants({
  ...unitCounts(record),
  THREADS,
  ROW_COPIERS,
  ROWS,
  KEYS,
  KEY_GROUPS,
  ROW_GROUPS,
  // threads of a row, of which each has four keys
  ROW_THREADS: KEYS / 4,
  SOFT_SUBGROUPS: (ROWS * KEYS) / 4 / LANES,
  SCORES: tile.scores.at,
  SCORE_STRIDE: tile.scores.stride,
  PART_SCORES: ROWS * tile.scores.stride,
})}
${problemUniforms(bindings.length)}
${declareRows(bindings, rows, widthOf(record))}
${writable('out', binding('out'), record.HALF_PARTS ? 'halves' : widthOf(record))}
${declareLengths(bindings)}
${declareUnits(bindings, inUnits)}
@group(0) @binding(${binding('lse')}) var<storage, read_write> lse: array<f32>;
var<workgroup> arena: array<vec4u, ${tile.arena}>;
${softmaxConstants()}
${tileRows}
${queryColumns(record)}
${visibility}
${halvesOf}
${queryUnits(record)}
${cacheUnits(record)}

${mainHead()}
  let batch = group.x;
  let tile = Tile(batch, 0u, u.sq, kv_lengths_of(batch, u.skv));
  let first_row = group.y * ROWS;
  let split = group.z;
  ${keysOfSplit}

  let row_group = subgroup % ROW_GROUPS;
  let score_group = subgroup / ROW_GROUPS;
  let depth_group = score_group / KEY_GROUPS;
  let query_group = row_group + ROW_GROUPS * depth_group;
  let scores_at = SCORES + depth_group * PART_SCORES + row_group * (16u * SCORE_STRIDE) + score_group % KEY_GROUPS * 4u;
  let copy_row = tid / ROW_COPIERS;
  let copy_unit = tid % ROW_COPIERS;
  ${loadQueries(record, tile)}
  ${declareSums('o', ROW_GROUPS, own)}

  // the first threads each look after four scores of a row
  let row = min(tid / ROW_THREADS, ROWS - 1u);
  let part = tid % ROW_THREADS;
  let soft_at = SCORES + row * SCORE_STRIDE + part;
  ${startRow()}
  ${clearPadding(tile.cache, KEYS, QK_UNITS)}
  ${walkTwice(KEYS / 4, resetSums('o', ROW_GROUPS, own), walkKeys(record, tile))}
  ${finishRow(KEYS / 4, 'part == 0u && tid < ROWS * ROW_THREADS')}
  ${storeRows({ name: 'o', rows: ROWS, rowTiles: ROW_GROUPS, own, arena: tile.arena, ...groups }, storeOutput)}
}
`;
}

/** Rows of queries as halves through the arena into matrices: of each subgroup its rows and its part of the depth. */
function loadQueries(
  record: ForwardConstants,
  { ROWS, ROW_GROUPS, DEPTH_GROUPS, cache, ownSteps }: DecodeTile,
): string {
  const { DN_UNITS, DR_UNITS, QK_UNITS } = unitCounts(record);
  const m = 'min(first_row + copy_row, u.sq * GROUP - 1u)';
  const to = `copy_row * ${cache.stride}u`;
  const parts = [
    { name: 'q', units: DN_UNITS, from: m, to, load: (unit: string) => `q_nope_unit(tile, q_from, ${unit})` },
    {
      name: 'q_rope',
      units: DR_UNITS,
      from: m,
      to: `${to} + DN_UNITS`,
      load: (unit: string) => `q_rope_unit(tile, q_rope_from, ${unit})`,
    },
  ].filter(({ units }) => units > 0);
  return `
  if (copy_row < ROWS) { ${stageRows(parts)} }
  ${clearPadding({ at: 0, stride: cache.stride }, ROWS, QK_UNITS)}
  workgroupBarrier();
  ${repeat(ownSteps, (k) => `var q0_${k}: Left;`)}
  ${byGroup('query_group', ROW_GROUPS * DEPTH_GROUPS, (group) => {
    const at =
      (group % ROW_GROUPS) * EDGE * cache.stride + Math.floor(group / ROW_GROUPS) * ownSteps * EDGE_UNITS;
    return repeat(
      ownSteps,
      (k) =>
        `q0_${k} = subgroupMatrixLoad<Left, row_major>(&arena, ${at + k * EDGE_UNITS}u, ${cache.stride}u);`,
    );
  })}
  workgroupBarrier();`;
}

function walkKeys(record: ForwardConstants, tile: DecodeTile): string {
  const next = cacheRows(record, tile.cache, 'next_key');
  return `
    { ${stageRows(cacheRows(record, tile.cache, 'first_key'))} }
    workgroupBarrier();
    let steps = (end_key - first_key + KEYS - 1u) / KEYS;
    for (var step = 0u; step < steps; step++) {
      let key = first_key + step * KEYS;
      let next_key = min(key + KEYS, end_key - 1u);
      ${fetchRows(next)}
      ${scores(tile)}
      workgroupBarrier();
      if (subgroup < SOFT_SUBGROUPS) { ${softmax(tile)} }
      workgroupBarrier();
      ${addLatents(tile)}
      workgroupBarrier();
      ${putRows(next)}
      workgroupBarrier();
    }`;
}

/** F1: a part of the depth of sixteen rows with sixteen keys. */
function scores({ SCORE_GROUPS, cache, steps, ownSteps, scores: to }: DecodeTile): string {
  return byGroup('score_group', SCORE_GROUPS, (group) => {
    const first = Math.floor(group / KEY_GROUPS) * ownSteps;
    const count = Math.max(0, Math.min(ownSteps, steps - first));
    const part = { at: cache.at + first * EDGE_UNITS, stride: cache.stride };
    return `
    ${declareSums('s', 1, 1)}
    ${multiplyRows('s', 'q', 1, count, [group % KEY_GROUPS], part)}
    ${storeSums('s', 1, [0], 'scores_at', to.stride)}`;
  });
}

/**
 * F2, F3 so far. Four threads have sixteen weights: they hand them to the first, which writes them a whole matrix wide,
 * over scores that those four have read; what it writes depends on what they read.
 */
function softmax({ DEPTH_GROUPS }: DecodeTile): string {
  const parts = [...Array(DEPTH_GROUPS).keys()].map(
    (i) => `bitcast<vec4f>(arena[soft_at + ${i}u * PART_SCORES])`,
  );
  return `
    let column = key + part * 4u - band.x;
    var x = ${visibleOr('HIDDEN', parts.join(' + '), 0)};
    var part_max = max(max(x.x, x.y), max(x.z, x.w));
    ${meetScores(KEYS / 4)}
    x = ${weightOf('x')};
    row_sum += (x.x + x.y) + (x.z + x.w);
    let four = vec2u(pack2x16float(x.xy), pack2x16float(x.zw));
    let eight = vec4u(four, subgroupShuffleXor(four, 1u));
    let others = subgroupShuffleXor(eight, 2u);
    if (part % 4u == 0u) {
      arena[soft_at] = eight;
      arena[soft_at + 1u] = others;
    }`;
}

/** F4: all rows of weights times a part of the columns of the keys. */
function addLatents({ ROW_GROUPS, own, cache, scores: weights }: DecodeTile): string {
  return byGroup('subgroup', SUBGROUPS, (group) =>
    addWeightedRows(
      'o',
      ROW_GROUPS,
      KEYS / EDGE,
      [...Array(own).keys()].map((c) => group * own + c),
      cache,
      (r, k) => `${weights.at + r * EDGE * weights.stride + 4 * k}u`,
      weights.stride,
    ),
  );
}
