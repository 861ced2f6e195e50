/**
 * MLAAttentionDkv and MLADecodeDkv, B2, B3, B5-B7 of gradients/README.md, read by columns: keys are the rows.
 *
 * Grid: key/value heads × batch × tiles of LEFT keys: under a causal mask the longest first. A workgroup keeps the sums
 * of its keys in registers and walks over the packed rows that see them, RIGHT at a time, always in the same order:
 *   Sᵀ = K·Qᵀ, dPᵀ = V·dOutᵀ                     slices through the arena
 *   P = exp(S − lse)                             → W;  dV += Pᵀ·dOut, chunks of dOut
 *   dS = softmaxScale · P · (dP − delta)         → W;  dK += dSᵀ·Q, chunks of Q
 * In MLADecode both go into the same sums: the latent is key and value. The heads' shares of dKRope go behind the
 * numbers in `stats`, and sumParts.ts adds them; there is only one head in MLADecode.
 */
import type { MlaProblem } from '../../src/core/problem.js';
import {
  addWeighted,
  attentionHead,
  declareStats,
  forSumRows,
  multiplyRows,
  placeProducts,
  placeSums,
  quadGroup,
  storeSums,
  storeWeights,
} from './attentionTile.js';
import { portableLane } from './capabilities.js';
import type { LaneConstants } from './capabilities.js';
import { columnCounts, operandBindings, operandConstants } from './operands.js';
import type { Binding, OperandConstants } from './operands.js';
import { dOutColumn } from './mlaAttentionDq.js';
import { readStats } from './packStats.js';
import { hasHalves } from './tiles.js';
import type { SumShape, Tile, TileWork } from './tiles.js';
import { declareBlock, repeat } from './wgsl.js';

export function dkvBindings(record: OperandConstants): Binding[] {
  const { IS_DECODE, DR } = record;
  const bindings: Binding[] = [
    ...operandBindings(record),
    { name: 'd_out', access: 'read' },
    { name: 'stats', access: 'write' },
    { name: 'd_k', access: 'write' },
  ];
  if (!IS_DECODE) bindings.push({ name: 'd_v', access: 'write' });
  else if (DR > 0) bindings.push({ name: 'd_k_rope', access: 'write' });
  return bindings;
}

export function dkvWork(problem: MlaProblem, lane: LaneConstants = portableLane): TileWork {
  const record = operandConstants(problem);
  const { QK4, DV4 } = columnCounts(record);
  return {
    products: [QK4, DV4],
    sums: record.IS_DECODE ? [QK4] : [DV4, QK4],
    left: problem.skv,
    right: problem.sq * record.GROUP,
    problems: problem.b * problem.hkv,
    mostSplits: 1,
    extra: { left: 0, right: lane.HALVES ? 4 : 2 },
    reducesRows: false,
    hasSmallWeights: false,
    lane,
  };
}

export function mlaAttentionDkvWgsl(record: OperandConstants, tile: Tile): string {
  const bindings = dkvBindings(record);
  const { QK4, DV4 } = columnCounts(record);
  const isDecode = record.IS_DECODE === 1;
  const dkSums = tile.sums[tile.sums.length - 1];
  // with one tensor for both, P·dOut is added to the sums of dS·Q: the same columns, the rope part left alone
  const dvSums = isDecode ? dkSums : tile.sums[0];
  const dv = isDecode ? 'dk' : 'dv';
  const stats = bindings.findIndex(({ name }) => name === 'stats');
  return `
${attentionHead(record, tile, bindings, ['stats'])}
${readStats(stats, 'write', hasHalves(tile))}
${declareStats(tile.RIGHT, hasHalves(tile))}
${dOutColumn}
${!isDecode && record.DR > 0 ? ropeShare : ''}

// one of the numbers of four rows
fn four_stats(row: u32, which: u32) -> vec4f {
  return vec4f(rows_stats[row][which], rows_stats[row + 1u][which], rows_stats[row + 2u][which], rows_stats[row + 3u][which]);
}

// exp(scores − lse) of a key with four rows, 0 where a row does not see the key
fn probabilities(tile: Tile, m: u32, j: u32, is_all_seen: bool, scores: vec4f, lse: vec4f) -> vec4f {
  let p = exp(scores * u.scale - lse);
  if (is_all_seen) { return p; }
  return select(vec4f(0.0), p, four_rows_see(tile, m, j));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) tid: u32) {
  let batch = group.y;
  let lengths = uniform_lengths(tid, lengths_of(batch));
  let tile = Tile(batch, group.x, lengths.x, lengths.y);
  let first_key = group.z * LEFT;
  let seeing = rows_of_keys(tile, first_key, LEFT);

  ${placeProducts()}
  ${isDecode ? '' : placeSums('dv', dvSums)}
  ${isDecode ? '' : declareBlock('dv', dvSums.rows, dvSums.columns)}
  ${placeSums('dk', dkSums)}
  ${declareBlock('dk', dkSums.rows, dkSums.columns)}

  for (var first_row = seeing.x; first_row < seeing.y; first_row += RIGHT) {
    for (var row = tid; row < RIGHT; row += THREADS) { rows_stats[row] = row_stats(tile, first_row + row); }
    // F1, B2
    ${declareBlock('s', tile.rows, tile.QUADS)}
    ${multiplyRows('s', tile, QK4, 'k_column(tile, first_key + row, slice + c)', 'q_column(tile, first_row + row, slice + c)')}
    ${declareBlock('dp', tile.rows, tile.QUADS)}
    ${multiplyRows('dp', tile, DV4, 'v_column(tile, first_key + row, slice + c)', scaled(tile, 'd_out_column(tile, first_row + row, slice + c)', 'row'))}
    // F3, B3: s becomes p, dp becomes dS
    let is_all_seen = all_see(tile, first_row, RIGHT, first_key, LEFT);
    ${repeat(tile.QUADS, (h) => probabilitiesAndDs(tile, h))}
    // B5
    ${storeWeights('s', tile)}
    workgroupBarrier();
    ${addWeighted(dv, tile, dvSums, scaled(tile, 'd_out_column(tile, first_row + chunk + row, c)', 'chunk + row'))}
    // B6, B7
    ${storeWeights('dp', tile)}
    workgroupBarrier();
    ${addWeighted('dk', tile, dkSums, 'q_column(tile, first_row + chunk + row, c)')}
  }

  // keys that nobody sees get the 0 that their sums still are
  ${isDecode ? '' : forSumRows('dv', dvSums, (i, row) => storeDv(dvSums, i, row))}
  ${forSumRows('dk', dkSums, (i, row) => storeDk(record, dkSums, i, row))}
}
`;
}

/** `column`, WGSL for a vec4f of dOut in row `row` of the tile, as halves can hold it. */
function scaled(tile: Tile, column: string, row: string): string {
  return hasHalves(tile) ? `${column} * rows_stats[${row}].z` : column;
}

/** What was computed from it, as it would be without: `inverse` is the row's rows_stats.w. */
function unscaled(tile: Tile, value: string, inverse: string): string {
  return hasHalves(tile) ? `(${value} * ${inverse})` : value;
}

/** One head's share of dKRope, behind the numbers that came in. */
const ropeShare = `
fn d_k_rope_share(tile: Tile, start: u32, c: u32, value: vec4f) {
  let shares = u.batch * (2u + ROW_STATS * u.hq * u.sq);
  let at = shares + tile.kv_head * u.batch * u.skv * DR + start + 4u * c;
  stats[at] = value.x;
  if (4u * c + 1u < DR) { stats[at + 1u] = value.y; }
  if (4u * c + 2u < DR) { stats[at + 2u] = value.z; }
  if (4u * c + 3u < DR) { stats[at + 3u] = value.w; }
}`;

function probabilitiesAndDs(tile: Tile, h: number): string {
  return `{
      let at = ${quadGroup(h)} * 4u;
      let lse = four_stats(at, 0u);
      let delta = four_stats(at, 1u);
      ${hasHalves(tile) ? 'let inverse = four_stats(at, 3u);' : ''}
      ${repeat(
        tile.rows,
        (i) => `
      s${i}_${h} = probabilities(tile, first_row + at, first_key + left_row + ${i}u, is_all_seen, s${i}_${h}, lse);
      dp${i}_${h} = u.scale * s${i}_${h} * (${unscaled(tile, `dp${i}_${h}`, 'inverse')} - delta);
      s${i}_${h} = ${unscaled(tile, `s${i}_${h}`, 'inverse')};`,
      )}
    }`;
}

function storeDv(sums: SumShape, i: number, row: string): string {
  return `
  if (first_key + ${row} < u.skv) {
    let start = v_start(tile, first_key + ${row});
    ${storeSums('dv', sums, i, (c, value) => `if (${c} < DV4) { d_v_store(start, ${c}, DV, ${value}); }`)}
  }`;
}

function storeDk({ DR, IS_DECODE }: OperandConstants, sums: SumShape, i: number, row: string): string {
  const ropeStore = IS_DECODE
    ? 'd_k_rope_store(rope_start, c - DN4, DR, value)'
    : 'd_k_rope_share(tile, rope_start, c - DN4, value)';
  const store = (c: string, value: string): string => `
    if (${c} < QK4) {
      let c = ${c};
      let value = ${value};
      if (c < DN4) { d_k_store(start, c, DN, value); } ${DR > 0 ? `else { ${ropeStore}; }` : ''}
    }`;
  return `
  if (first_key + ${row} < u.skv) {
    let start = k_start(tile, first_key + ${row});
    ${DR > 0 ? `let rope_start = k_rope_start(tile, first_key + ${row});` : ''}
    ${storeSums('dk', sums, i, store)}
  }`;
}
