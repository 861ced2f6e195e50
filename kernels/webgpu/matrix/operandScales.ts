/**
 * Powers of two that bring queries, keys and values to 2^13 at most: halves, split in two, then lose nothing of numbers
 * down to 2^-26 of the largest, and of smaller ones 2^-38 of the largest.
 */
import { declareLengths, declareRows, keyColumns, operandBindings, operandSizes } from '../operands.js';
import { queryColumns, tileRows, valueColumns, widthOf } from '../operands.js';
import type { Binding, OperandConstants } from '../operands.js';
import { maximaWgsl, raise, readMaxima } from './maxima.js';

export interface OperandMaximaConstants extends OperandConstants {
  HAS_Q_LENGTHS: number;
  HAS_KV_LENGTHS: number;
}

export function operandMaximaBindings(record: OperandMaximaConstants): Binding[] {
  return [...operandBindings(record), ...lengthBindings(record), { name: 'maxima', access: 'write' }];
}

export function lengthBindings({ HAS_Q_LENGTHS, HAS_KV_LENGTHS }: OperandMaximaConstants): Binding[] {
  const names = [...(HAS_Q_LENGTHS ? ['q_lengths'] : []), ...(HAS_KV_LENGTHS ? ['kv_lengths'] : [])];
  return names.map((name) => ({ name, access: 'read' }));
}

/** maxima: of queries, keys and values. */
export function operandMaximaWgsl(record: OperandMaximaConstants): string {
  const bindings = operandMaximaBindings(record);
  const operands = operandBindings(record).map(({ name }) => name);
  return maximaWgsl({
    bindings: bindings.length,
    declarations: `
${operandSizes(record)}
${declareRows(bindings, operands, widthOf(record))}
${declareLengths(bindings)}
${tileRows}
${queryColumns(record)}
${keyColumns(record)}
${valueColumns(record)}

fn tile_of(batch: u32, kv_head: u32) -> Tile {
  return Tile(batch, kv_head, q_lengths_of(batch, u.sq), kv_lengths_of(batch, u.skv));
}`,
    ofQuery: raise('x', 'QK4', 'q_column(tile, m, c)'),
    ofKey: `${raise('y', 'QK4', 'k_column(tile, j, c)')}${raise('z', 'DV4', 'v_column(tile, j, c)')}`,
  });
}

/** `operand_scales(tid)` for a shader of `threads` threads that all call it. */
export function operandScales(binding: number, threads: number): string {
  return `
${readMaxima(binding, threads)}

struct Scales {
  q: f32,
  k: f32,
  v: f32,
}

fn scale_to_halves(most: f32, largest_exponent: i32) -> f32 {
  return power_of_two(min(13 - exponent_above(most), largest_exponent));
}

fn operand_scales(tid: u32) -> Scales {
  let most = most_of_all(tid);
  // scores that small are no more than 0; and their scale stays what masks can hide
  return Scales(scale_to_halves(most.x, 13), scale_to_halves(most.y, 13), scale_to_halves(most.z, 100));
}`;
}
