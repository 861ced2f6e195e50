/**
 * MLAAttention, F1-F4 of gradients/README.md with the softmax online (FlashAttention-2, arXiv:2307.08691,
 * algorithm 1). MLADecode runs the same shader on the cache.
 *
 * Grid: (tiles of LEFT packed rows, longest first) × key/value heads × (batch · splits of the keys).
 * A workgroup keeps the sums of its rows in registers and walks over the keys they see, RIGHT at a time:
 *   scores = Q·Kᵀ, slices of 32 columns through the arena      → P, in the arena's place
 *   softmax, THREADS / LEFT threads a row                      → P
 *   out = out · alpha + P·V, chunks of V through the arena
 * Each split writes an output and an lse of its own; mergeSplits.ts joins them.
 */
import type { MlaProblem } from '../../src/core/problem.js';
import {
  addWeighted,
  attentionHead,
  declareSums,
  forSumRows,
  keysToWalk,
  multiplyRows,
  placeProducts,
  placeSums,
  scaleSums,
  storeSums,
} from './attentionTile.js';
import { columnCounts, declareLengths, operandBindings, operandConstants } from './operands.js';
import type { Binding, OperandConstants } from './operands.js';
import { mostSplits } from './mergeSplits.js';
import type { Tile, TileWork } from './tiles.js';
import { constants, declare, repeat } from './wgsl.js';

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

export function forwardWork(problem: MlaProblem): TileWork {
  const record = operandConstants(problem);
  const { QK4, DV4 } = columnCounts(record);
  return {
    products: [QK4],
    sums: [DV4],
    left: problem.sq * record.GROUP,
    right: problem.skv,
    problems: problem.b * problem.hkv,
    mostSplits,
    extra: { left: 1, right: 0, thread: 1 },
  };
}

export function mlaAttentionWgsl(record: ForwardConstants, tile: Tile): string {
  const bindings = forwardBindings(record);
  const { QK4 } = columnCounts(record);
  const [sums] = tile.sums;
  const lse = bindings.findIndex(({ name }) => name === 'lse');
  return `
${attentionHead(record, tile, bindings, ['q_lengths', 'kv_lengths', 'lse'])}
${declareLengths(bindings)}
@group(0) @binding(${lse}) var<storage, read_write> lse: array<f32>;
${keysToWalk}

${constants({ ROW_THREADS: tile.THREADS / tile.LEFT, ROW_PART: tile.RIGHT / 4 / (tile.THREADS / tile.LEFT) })}
var<workgroup> partial: array<f32, ${tile.THREADS}>;
var<workgroup> factors: array<f32, ${tile.LEFT}>;

// a score that no key can have, and what a row starts from
const HIDDEN = -1e30;

fn hide(tile: Tile, m: u32, j: u32, scores: vec4f) -> vec4f {
  return select(vec4f(HIDDEN), scores, sees_four_keys(tile, m, j));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) tid: u32) {
  let batch = group.z / u.splits;
  let split = group.z % u.splits;
  let lengths = uniform_lengths(tid, vec2u(q_lengths_of(batch, u.sq), kv_lengths_of(batch, u.skv)));
  let tile = Tile(batch, group.y, lengths.x, lengths.y);
  let first_row = (u.tiles - 1u - group.x) * LEFT;
  let keys = keys_to_walk(tile, first_row, split);

  ${placeProducts(tile)}
  ${placeSums('out', sums)}
  ${declareSums('out', sums)}
  // the threads of a row each look after ROW_PART vec4 of its scores
  let soft_row = tid / ROW_THREADS;
  let soft_at = WEIGHTS + soft_row * WEIGHT_STRIDE + (tid % ROW_THREADS) * ROW_PART;
  var row_max = HIDDEN;
  var row_sum = 0.0;

  for (var key = keys.x; key < keys.y; key += RIGHT) {
    // F1
    ${declare('s', tile.rows)}
    ${multiplyRows('s', tile, QK4, 'q_column(tile, first_row + row, slice + c)', 'k_column(tile, key + row, slice + c)')}
    let is_all_seen = all_see(tile, first_row, LEFT, key, RIGHT);
    ${storeScores(tile.rows)}
    workgroupBarrier();

    // F2, F3 so far
    var part_max = row_max;
    for (var c = 0u; c < ROW_PART; c++) {
      let s = arena[soft_at + c];
      part_max = max(part_max, max(max(s.x, s.y), max(s.z, s.w)));
    }
    partial[tid] = part_max;
    workgroupBarrier();
    var next_max = part_max;
    for (var t = 0u; t < ROW_THREADS; t++) { next_max = max(next_max, partial[soft_row * ROW_THREADS + t]); }
    let alpha = exp(row_max - next_max);
    row_max = next_max;
    row_sum *= alpha;
    for (var c = 0u; c < ROW_PART; c++) {
      let s = arena[soft_at + c];
      // a row that has seen nothing yet has HIDDEN as its maximum
      let p = select(exp(s - next_max), vec4f(0.0), s <= vec4f(HIDDEN));
      row_sum += p.x + p.y + p.z + p.w;
      arena[soft_at + c] = p;
    }
    if (tid % ROW_THREADS == 0u) { factors[soft_row] = alpha; }
    workgroupBarrier();

    // F4 so far
    ${forSumRows('out', sums, (i, row) => scaleSums('out', sums, i, `factors[${row}]`))}
    ${addWeighted('out', tile, sums, 'v_column(tile, key + chunk + row, c)')}
  }

  partial[tid] = row_sum;
  workgroupBarrier();
  if (tid % ROW_THREADS == 0u) {
    var total = 0.0;
    for (var t = 0u; t < ROW_THREADS; t++) { total += partial[tid + t]; }
    factors[soft_row] = select(1.0 / total, 0.0, total == 0.0);
    let m = first_row + soft_row;
    if (m < u.sq * GROUP) {
      let at = ((split * u.batch + batch) * u.hq + head_of(tile, m)) * u.sq + m / GROUP;
      lse[at] = select(row_max + log(total), u.minus_infinity, total == 0.0);
    }
  }
  workgroupBarrier();
  let split_start = split * u.batch * u.sq * u.hq * DV;
  ${forSumRows('out', sums, (i, row) => storeOut(tile, i, row))}
}
`;
}

/** Scaled scores of this thread's products, hidden where a row does not see the key. */
function storeScores(rows: number): string {
  return `{
  let m = first_row + left_row;
  let j = key + right_group * 4u;
  let at = WEIGHTS + left_row * WEIGHT_STRIDE + right_group;
${repeat(
  rows,
  (i) => `
  s${i} *= u.scale;
  if (!is_all_seen) { s${i} = hide(tile, m + ${i}u, j, s${i}); }
  arena[at + ${i}u * WEIGHT_STRIDE] = s${i};`,
)}
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
