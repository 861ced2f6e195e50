/**
 * MLAAttention, F1-F4 of gradients/README.md with the softmax online (FlashAttention-2, arXiv:2307.08691,
 * algorithm 1). MLADecode runs the same shader on the cache.
 *
 * Grid: key/value heads × (batch · splits of the keys) × tiles of LEFT packed rows, the longest of all heads first: one
 * that began last would run alone.
 * A workgroup keeps the sums of its rows in registers and walks over the keys they see, RIGHT at a time:
 *   scores = Q·Kᵀ, slices through the arena                    → registers, ROW_THREADS threads a row
 *   the largest score of each row, across its threads          → P, in the arena's place
 *   out = out · alpha + P·V, chunks of V through the arena
 * Each split writes an output and an lse of its own; mergeSplits.ts joins them.
 */
import type { MlaProblem } from '../../src/core/problem.js';
import {
  addWeighted,
  attentionHead,
  forProducts,
  forSumRows,
  keysToWalk,
  multiplyRows,
  placeProducts,
  placeSums,
  scaleSums,
  storeSums,
  storeWeights,
} from './attentionTile.js';
import { columnCounts, declareLengths, operandBindings, operandConstants } from './operands.js';
import type { Binding, OperandConstants } from './operands.js';
import { mostSplits } from './mergeSplits.js';
import { portableLane } from './capabilities.js';
import type { LaneConstants } from './capabilities.js';
import type { Tile, TileWork } from './tiles.js';
import { declareReductions, enableSubgroups, reduceRows } from './rowReductions.js';
import { declareBlock, repeat } from './wgsl.js';

/** All that is compiled into the forward. */
export interface ForwardConstants extends OperandConstants {
  HAS_Q_LENGTHS: number;
  HAS_KV_LENGTHS: number;
}

export function forwardConstants(problem: MlaProblem): ForwardConstants {
  return {
    ...operandConstants(problem),
    HAS_Q_LENGTHS: problem.hasQLengths ? 1 : 0,
    HAS_KV_LENGTHS: problem.hasKvLengths ? 1 : 0,
  };
}

export function forwardBindings(record: ForwardConstants): Binding[] {
  const bindings = operandBindings(record);
  if (record.HAS_Q_LENGTHS) bindings.push({ name: 'q_lengths', access: 'read' });
  if (record.HAS_KV_LENGTHS) bindings.push({ name: 'kv_lengths', access: 'read' });
  bindings.push({ name: 'out', access: 'write' }, { name: 'lse', access: 'write' });
  return bindings;
}

export function forwardWork(problem: MlaProblem, lane: LaneConstants = portableLane): TileWork {
  const record = operandConstants(problem);
  const { QK4, DV4 } = columnCounts(record);
  return {
    products: [QK4],
    sums: [DV4],
    left: problem.sq * record.GROUP,
    right: problem.skv,
    problems: problem.b * problem.hkv,
    mostSplits,
    extra: { left: 1, right: 0 },
    reducesRows: true,
    hasSmallWeights: true,
    lane,
  };
}

export function mlaAttentionWgsl(record: ForwardConstants, tile: Tile): string {
  const bindings = forwardBindings(record);
  const { QK4 } = columnCounts(record);
  const [sums] = tile.sums;
  const lse = bindings.findIndex(({ name }) => name === 'lse');
  return `
${enableSubgroups(tile)}
${attentionHead(record, tile, bindings, ['q_lengths', 'kv_lengths', 'lse'])}
${declareLengths(bindings)}
@group(0) @binding(${lse}) var<storage, read_write> lse: array<f32>;
${keysToWalk}
${declareReductions(tile)}

var<workgroup> factors: array<f32, ${tile.LEFT}>;

// a score that no key can have, and what a row starts from
const HIDDEN = -1e30;

fn hide(tile: Tile, m: u32, j: u32, scores: vec4f) -> vec4f {
  return select(vec4f(HIDDEN), scores, sees_four_keys(tile, m, j));
}

// a row that has seen nothing yet has HIDDEN as its maximum
fn weights_of(scores: vec4f, row_max: f32) -> vec4f {
  return select(exp(scores - row_max), vec4f(0.0), scores <= vec4f(HIDDEN));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) tid: u32) {
  let batch = group.y / u.splits;
  let split = group.y % u.splits;
  let lengths = uniform_lengths(tid, vec2u(q_lengths_of(batch, u.sq), kv_lengths_of(batch, u.skv)));
  let tile = Tile(batch, group.x, lengths.x, lengths.y);
  let first_row = (u.tiles - 1u - group.z) * LEFT;
  let keys = keys_to_walk(tile, first_row, split);

  ${placeProducts()}
  ${placeSums('out', sums)}
  ${declareBlock('out', sums.rows, sums.columns)}
  // of the rows of this thread's products: the largest score so far, and the sum of this thread's own weights
  ${repeat(tile.rows, (i) => `var row_max${i} = HIDDEN; var row_sum${i} = 0.0;`)}

  for (var key = keys.x; key < keys.y; key += RIGHT) {
    // F1
    ${declareBlock('s', tile.rows, tile.QUADS)}
    ${multiplyRows('s', tile, QK4, 'q_column(tile, first_row + row, slice + c)', 'k_column(tile, key + row, slice + c)')}
    let is_all_seen = all_see(tile, first_row, LEFT, key, RIGHT);
    ${forProducts(tile, scaleAndHide)}

    // F2, F3 so far
    ${repeat(tile.rows, (i) => `var next_max${i} = row_max${i};`)}
    ${forProducts(tile, (i, h) => `next_max${i} = max(next_max${i}, largest(s${i}_${h}));`)}
    ${reduceRows('next_max', 'max', tile)}
    ${repeat(tile.rows, advanceRow)}
    ${forProducts(tile, (i, h) => `s${i}_${h} = weights_of(s${i}_${h}, row_max${i}); row_sum${i} += total(s${i}_${h});`)}
    ${storeWeights('s', tile)}
    workgroupBarrier();

    // F4 so far
    ${forSumRows('out', sums, (i, row) => scaleSums('out', sums, i, `factors[${row}]`))}
    ${addWeighted('out', tile, sums, 'v_column(tile, key + chunk + row, c)')}
  }

  ${reduceRows('row_sum', 'sum', tile)}
  if (right_group == 0u) {
    ${repeat(tile.rows, finishRow)}
  }
  workgroupBarrier();
  let split_start = split * u.batch * u.sq * u.hq * DV;
  ${forSumRows('out', sums, (i, row) => storeOut(tile, i, row))}
}
`;
}

/** A score by the thread that holds it: hidden where the row does not see the key. */
function scaleAndHide(i: number, h: number, group: string): string {
  return `
    s${i}_${h} *= u.scale;
    if (!is_all_seen) { s${i}_${h} = hide(tile, first_row + left_row + ${i}u, key + ${group} * 4u, s${i}_${h}); }`;
}

function advanceRow(i: number): string {
  return `{
      let alpha = exp(row_max${i} - next_max${i});
      row_max${i} = next_max${i};
      row_sum${i} *= alpha;
      if (right_group == 0u) { factors[left_row + ${i}u] = alpha; }
    }`;
}

function finishRow(i: number): string {
  return `{
      factors[left_row + ${i}u] = select(1.0 / row_sum${i}, 0.0, row_sum${i} == 0.0);
      let m = first_row + left_row + ${i}u;
      if (m < u.sq * GROUP) {
        let at = ((split * u.batch + batch) * u.hq + head_of(tile, m)) * u.sq + m / GROUP;
        lse[at] = select(row_max${i} + log(row_sum${i}), u.minus_infinity, row_sum${i} == 0.0);
      }
    }`;
}

function storeOut(tile: Tile, i: number, row: string): string {
  const [sums] = tile.sums;
  return `
  if (first_row + ${row} < u.sq * GROUP) {
    let start = split_start + out_start(tile, first_row + ${row});
    let factor = factors[${row}];
    ${storeSums('out', sums, i, (c, value) => `if (${c} < DV4) { out_store(start, ${c}, DV, ${value} * factor); }`)}
  }`;
}
