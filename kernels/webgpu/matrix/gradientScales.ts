/**
 * Powers of two that bring the gradient into the range of halves, whose least normal number is 6e-5: one for dOut, and
 * one for dS that can overflow for no input, since |dOut · v| <= DV · max|dOut| · max|v|.
 */
import { dOutColumn } from '../mlaAttentionDq.js';
import { declareRows, operandSizes, tileRows, valueColumns, widthOf } from '../operands.js';
import type { Binding, OperandConstants } from '../operands.js';
import { readStats } from '../packStats.js';
import { maximaWgsl, raise, readMaxima } from './maxima.js';

/** The values of MLADecode are its keys. */
export function maximaBindings({ IS_DECODE, IS_PACKED }: OperandConstants): Binding[] {
  return [
    { name: 'd_out', access: 'read' },
    { name: IS_DECODE ? 'k' : 'v', access: 'read', isPacked: IS_PACKED === 1 },
    { name: 'stats', access: 'read' },
    { name: 'maxima', access: 'write' },
  ];
}

export function maximaBinding(bindings: Binding[]): number {
  return bindings.findIndex(({ name }) => name === 'maxima');
}

/** maxima: of dOut, of the values and of delta. */
export function gradientMaximaWgsl(record: OperandConstants): string {
  const bindings = maximaBindings(record);
  const [dOut, values] = bindings;
  return maximaWgsl({
    bindings: bindings.length,
    declarations: `
${operandSizes(record)}
${declareRows(bindings, [dOut.name, values.name], widthOf(record))}
${tileRows}
${valueColumns(record)}
${dOutColumn}
${readStats(2, 'read')}

fn tile_of(batch: u32, kv_head: u32) -> Tile {
  let lengths = lengths_of(batch);
  return Tile(batch, kv_head, lengths.x, lengths.y);
}`,
    ofQuery: `${raise('x', 'DV4', 'd_out_column(tile, m, c)')}
    most.z = max(most.z, abs(row_stats(tile, m).y));`,
    ofKey: raise('y', 'DV4', 'v_column(tile, j, c)'),
  });
}

/** `gradient_scales(tid)` for a shader of `threads` threads that all call it: powers of two and their inverses. */
export function gradientScales(binding: number, threads: number): string {
  return `
${readMaxima(binding, threads)}

struct Scales {
  d_out: f32,
  d_s: f32,
}

fn gradient_scales(tid: u32) -> Scales {
  let most = most_of_all(tid);
  let products = exponent_above(most.x) + exponent_above(most.y) + exponent_above(f32(DV));
  let largest = max(products, exponent_above(most.z)) + 1;
  return Scales(
    select(power_of_two(-exponent_above(most.x)), 1.0, most.x == 0.0),
    select(power_of_two(14 - largest), 1.0, most.x == 0.0 && most.z == 0.0));
}`;
}
