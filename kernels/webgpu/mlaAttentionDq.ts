/**
 * MLAAttentionDq and MLADecodeDq, B2-B4 of gradients/README.md.
 *
 * Grid as in the forward (mlaAttention.ts), and the same walk over keys:
 *   scores = Q·Kᵀ, dP = dOut·Vᵀ                  slices through the arena
 *   dS = exp(scores − lse) · (dP − delta)        → W, in the arena's place
 *   dQ += dS·K                                   chunks of K through the arena
 * Each split writes a share of its own; sumParts.ts adds them.
 */
import type { MlaProblem } from '../../src/core/problem.js';
import {
  addWeighted,
  attentionHead,
  declareStats,
  forProducts,
  forSumRows,
  keysToWalk,
  multiplyRows,
  placeProducts,
  placeSums,
  storeSums,
  storeWeights,
} from './attentionTile.js';
import { portableLane } from './capabilities.js';
import type { LaneConstants } from './capabilities.js';
import { columnCounts, operandBindings, operandConstants } from './operands.js';
import type { Binding, OperandConstants } from './operands.js';
import { readStats } from './packStats.js';
import { mostSplits } from './mergeSplits.js';
import type { SumShape, Tile, TileWork } from './tiles.js';
import { declareBlock } from './wgsl.js';

export function dqBindings(record: OperandConstants): Binding[] {
  const { IS_DECODE, DR } = record;
  const bindings: Binding[] = [
    ...operandBindings(record),
    { name: 'd_out', access: 'read' },
    { name: 'stats', access: 'read' },
    { name: 'd_q', access: 'write' },
  ];
  if (IS_DECODE && DR > 0) bindings.push({ name: 'd_q_rope', access: 'write' });
  return bindings;
}

export function dqWork(problem: MlaProblem, lane: LaneConstants = portableLane): TileWork {
  const record = operandConstants(problem);
  const { QK4, DV4 } = columnCounts(record);
  return {
    products: [QK4, DV4],
    sums: [QK4],
    left: problem.sq * record.GROUP,
    right: problem.skv,
    problems: problem.b * problem.hkv,
    mostSplits,
    extra: { left: 2, right: 0 },
    reducesRows: false,
    hasSmallWeights: false,
    lane,
  };
}

export function mlaAttentionDqWgsl(record: OperandConstants, tile: Tile): string {
  const bindings = dqBindings(record);
  const { QK4, DV4 } = columnCounts(record);
  const [sums] = tile.sums;
  const stats = bindings.findIndex(({ name }) => name === 'stats');
  return `
${attentionHead(record, tile, bindings, ['stats'])}
${readStats(stats, 'read')}
${declareStats(tile.LEFT, false)}
${dOutColumn}
${keysToWalk}

// exp(scores − lse), 0 where the row does not see the key
fn probabilities(tile: Tile, m: u32, j: u32, is_all_seen: bool, scores: vec4f, lse: f32) -> vec4f {
  let p = exp(scores * u.scale - lse);
  if (is_all_seen) { return p; }
  return select(vec4f(0.0), p, sees_four_keys(tile, m, j));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) tid: u32) {
  let batch = group.y / u.splits;
  let split = group.y % u.splits;
  let lengths = uniform_lengths(tid, lengths_of(batch));
  let tile = Tile(batch, group.x, lengths.x, lengths.y);
  let first_row = (u.tiles - 1u - group.z) * LEFT;
  let keys = keys_to_walk(tile, first_row, split);

  ${placeProducts()}
  ${placeSums('dq', sums)}
  ${declareBlock('dq', sums.rows, sums.columns)}
  for (var row = tid; row < LEFT; row += THREADS) { rows_stats[row] = row_stats(tile, first_row + row); }

  for (var key = keys.x; key < keys.y; key += RIGHT) {
    // F1, B2
    ${declareBlock('s', tile.rows, tile.QUADS)}
    ${multiplyRows('s', tile, QK4, 'q_column(tile, first_row + row, slice + c)', 'k_column(tile, key + row, slice + c)')}
    ${declareBlock('dp', tile.rows, tile.QUADS)}
    ${multiplyRows('dp', tile, DV4, 'd_out_column(tile, first_row + row, slice + c)', 'v_column(tile, key + row, slice + c)')}
    // F3, B3
    let is_all_seen = all_see(tile, first_row, LEFT, key, RIGHT);
    ${forProducts(tile, dsOf)}
    ${storeWeights('s', tile)}
    workgroupBarrier();
    // B4
    ${addWeighted('dq', tile, sums, 'k_column(tile, key + chunk + row, c)')}
  }

  ${forSumRows('dq', sums, (i, row) => storeDq(record, sums, i, row))}
}
`;
}

/** Column c of a row of dOut, which lies like out. */
export const dOutColumn = `
fn d_out_column(tile: Tile, m: u32, c: u32) -> vec4f {
  if (m >= tile.q_length * GROUP || c >= DV4) { return vec4f(0.0); }
  return d_out_load(out_start(tile, m), c, DV);
}`;

/** A score becomes dS, without the scale. */
function dsOf(i: number, h: number, group: string): string {
  return `{
      let row = left_row + ${i}u;
      let stats_of_row = rows_stats[row];
      let p = probabilities(tile, first_row + row, key + ${group} * 4u, is_all_seen, s${i}_${h}, stats_of_row.x);
      s${i}_${h} = p * (dp${i}_${h} - stats_of_row.y);
    }`;
}

/** dQ = softmaxScale · sum; its rope columns go to their own tensor, or behind the others. */
function storeDq({ DR, IS_DECODE }: OperandConstants, sums: SumShape, i: number, row: string): string {
  const ropeStore = IS_DECODE
    ? 'd_q_rope_store(rope_start, c - DN4, DR, value)'
    : 'd_q_store(start + DN, c - DN4, DR, value)';
  const store = (c: string, value: string): string => `
    if (${c} < QK4) {
      let c = ${c};
      let value = ${value} * u.scale;
      if (c < DN4) { d_q_store(start, c, DN, value); } ${DR > 0 ? `else { ${ropeStore}; }` : ''}
    }`;
  return `
  if (first_row + ${row} < u.sq * GROUP) {
    let start = split * u.batch * u.sq * u.hq * ${IS_DECODE ? 'DN' : '(DN + DR)'} + q_start(tile, first_row + ${row});
    ${IS_DECODE && DR > 0 ? `let rope_start = split * u.batch * u.sq * u.hq * DR + q_rope_start(tile, first_row + ${row});` : ''}
    ${storeSums('dq', sums, i, store)}
  }`;
}
