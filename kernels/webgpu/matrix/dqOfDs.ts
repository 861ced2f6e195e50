/**
 * B4 of gradients/README.md where …Dkv has kept dSᵀ: dQ = softmaxScale · dS·K, a product of matrices and no more, three
 * fifths less work than to form the scores once again.
 *
 * Grid: some (batch · key/value heads) × tiles of ROWS packed rows, longest first. Eight subgroups, four groups of rows
 * times two groups of columns, walk over the keys that the rows see, KEYS at a time, in two places by turns: what comes
 * next is put into the one while the other is multiplied.
 */
import type { Binding, OperandConstants } from '../operands.js';
import { declareRows, operandSizes, queryStart, tileRows, visibility, widthOf } from '../operands.js';
import { readStats } from '../packStats.js';
import { problemUniforms } from '../problemUniforms.js';
import { constants, repeat } from '../wgsl.js';
import { LEFT as DKV_KEYS, RIGHT } from './backwardTile.js';
import { THREADS } from './choose.js';
import type { Needs } from './choose.js';
import { gradientScales, maximaBinding } from './gradientScales.js';
import { unitCounts } from './form.js';
import { storeDq } from './mlaAttentionDq.js';
import { ROW_COPIERS, clearPadding, fetchRows, keyRows, putRows, stageRows } from './staging.js';
import type { Copied, Place } from './staging.js';
import {
  EDGE,
  EDGE_UNITS,
  byGroup,
  declareSums,
  headOfGroup,
  matrixHead,
  storeRows,
  mainHead,
} from './wgsl.js';

const KEYS = THREADS / ROW_COPIERS;
export const ROWS = 128;
const ROW_GROUPS = 4;
const COLUMN_GROUPS = 2;
/** matrices of rows that a subgroup owns */
const ROW_TILES = ROWS / EDGE / ROW_GROUPS;
const DS_UNITS = ROWS / 8;

export const dqOfDsBindings: Binding[] = [
  { name: 'halves', access: 'read' },
  { name: 'ds', access: 'read' },
  { name: 'stats', access: 'read' },
  { name: 'maxima', access: 'read' },
  { name: 'd_q', access: 'write' },
];

interface Layout extends Needs {
  /** matrices of columns that a subgroup owns */
  own: number;
  keys: Place[];
  ds: Place[];
  arena: number;
}

export function layOutDqOfDs(record: OperandConstants): Layout {
  const { QK_UNITS } = unitCounts(record);
  const own = Math.ceil(QK_UNITS / EDGE_UNITS / COLUMN_GROUPS);
  const keyStride = own * COLUMN_GROUPS * EDGE_UNITS + 1;
  const dsStride = DS_UNITS + 1;
  const each = KEYS * (keyStride + dsStride);
  return {
    own,
    keys: [0, 1].map((turn) => ({ at: turn * each, stride: keyStride })),
    ds: [0, 1].map((turn) => ({ at: turn * each + KEYS * keyStride, stride: dsStride })),
    arena: 2 * each,
    bytes: 32 * each + 16 * THREADS,
    registers: 8 * ROW_TILES * own + Math.ceil((4 * (QK_UNITS + DS_UNITS)) / ROW_COPIERS),
  };
}

export function dqOfDsWgsl(record: OperandConstants): string {
  const layout = layOutDqOfDs(record);
  const { own, keys } = layout;
  const groups = { rowGroup: 'row_group', columnGroup: 'column_group', columnGroups: COLUMN_GROUPS };
  const { QK_UNITS } = unitCounts(record);
  const binding = (name: string): number => dqOfDsBindings.findIndex((candidate) => candidate.name === name);
  return `
${matrixHead()}
${operandSizes(record)}
${constants({ ...unitCounts(record), THREADS, ROW_COPIERS, ROWS, KEYS, ROW_GROUPS, RIGHT, DKV_KEYS })}
${problemUniforms(dqOfDsBindings.length)}
${declareRows(dqOfDsBindings, ['d_q'], widthOf(record))}
@group(0) @binding(${binding('halves')}) var<storage, read> halves: array<vec4u>;
@group(0) @binding(${binding('ds')}) var<storage, read> ds: array<vec4u>;
${readStats(binding('stats'), 'read')}
${tileRows}
${visibility}
${gradientScales(maximaBinding(dqOfDsBindings), THREADS)}
var<workgroup> arena: array<vec4u, ${layout.arena}>;

${queryStart}

// dS of a key with eight rows; …Dkv has written whole steps of rows for whole tiles of keys, and nothing else
fn ds_unit(tile: Tile, at: u32, j: u32, m: u32) -> vec4u {
  let seeing = rows_of_keys(tile, j / DKV_KEYS * DKV_KEYS, DKV_KEYS);
  let is_written = m >= seeing.x / RIGHT * RIGHT && m < (seeing.y + RIGHT - 1u) / RIGHT * RIGHT;
  return select(vec4u(0u), ds[at + m / 8u], is_written && j < tile.kv_length);
}

${mainHead()}
  ${headOfGroup}
  let lengths = lengths_of(batch);
  let tile = Tile(batch, kv_head, lengths.x, lengths.y);
  let first_row = (u.tiles - 1u - group.y) * ROWS;
  let seen = keys_of_rows(tile, first_row, ROWS);
  let first_key = seen.x / KEYS * KEYS;
  let steps = (max(seen.y, first_key) - first_key + KEYS - 1u) / KEYS;
  let scales = gradient_scales(tid);
  let ds_row_units = (u.sq * GROUP + RIGHT - 1u) / RIGHT * (RIGHT / 8u);

  let row_group = subgroup % ROW_GROUPS;
  let column_group = subgroup / ROW_GROUPS;
  let copy_row = tid / ROW_COPIERS;
  let copy_unit = tid % ROW_COPIERS;
  ${declareSums('g', ROW_TILES, own)}
  ${keys.map((place) => clearPadding(place, KEYS, QK_UNITS)).join('\n')}
  { ${stageRows(stagedRows(record, layout, 0, 'first_key'))} }
  workgroupBarrier();
  // two steps a turn: places are constants
  for (var step = 0u; step < steps; step += 2u) {
    let key = first_key + step * KEYS;
    ${multiplyStep(record, layout, 0)}
    if (step + 1u < steps) {
      ${multiplyStep(record, layout, 1)}
    }
  }
  let factor = u.scale / scales.d_s;
  ${storeRows({ name: 'g', rows: ROWS, rowTiles: ROW_TILES, own, arena: layout.arena, ...groups }, storeDq(record))}
}
`;
}

/** Keys from `key` on and their dS with the tile's rows, into the place of a turn. */
function stagedRows(record: OperandConstants, { keys, ds }: Layout, turn: number, key: string): Copied[] {
  const { at, stride } = ds[turn];
  const j = `min(${key} + copy_row, u.skv - 1u)`;
  return [
    ...keyRows(record, keys[turn], key),
    {
      name: 'ds',
      units: DS_UNITS,
      from: `(head_in_dispatch * u.skv + ${j}) * ds_row_units`,
      to: `${at}u + copy_row * ${stride}u`,
      load: (unit) => `ds_unit(tile, ds_from, ${key} + copy_row, first_row + 8u * (${unit}))`,
    },
  ];
}

/** Multiplies what is in the place of a turn while what comes next goes into the other. */
function multiplyStep(record: OperandConstants, layout: Layout, turn: number): string {
  const next = stagedRows(record, layout, 1 - turn, `(key + ${turn + 1}u * KEYS)`);
  const { own, keys, ds } = layout;
  return `
    {
      ${fetchRows(next)}
      ${byGroup('column_group', COLUMN_GROUPS, (group) => addProducts(own, group, keys[turn], ds[turn]))}
      ${putRows(next)}
      workgroupBarrier();
    }`;
}

function addProducts(own: number, group: number, keys: Place, ds: Place): string {
  return repeat(
    KEYS / EDGE,
    (k) => `{
${repeat(
  ROW_TILES,
  (r) =>
    `  let w${r} = subgroupMatrixLoad<Left, col_major>(&arena, ${ds.at + k * EDGE * ds.stride + r * EDGE_UNITS}u + row_group * ${ROW_TILES * EDGE_UNITS}u, ${ds.stride}u);`,
)}
${repeat(own, (c) => {
  const offset = keys.at + k * EDGE * keys.stride + (group * own + c) * EDGE_UNITS;
  return `  {
    let right = subgroupMatrixLoad<Right, row_major>(&arena, ${offset}u, ${keys.stride}u);
${repeat(ROW_TILES, (r) => `    g${r}_${c} = subgroupMatrixMultiplyAccumulate(w${r}, right, g${r}_${c});`)}
  }`;
})}
}`,
  );
}
