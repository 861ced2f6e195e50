/** How numbers lie in subgroup matrices: tiles are laid out by it, and the verbs of wgsl.ts are written in it. */
import { knownMatrices, matrixOf } from '../capabilities.js';
import type { Capabilities, MatrixLane, MatrixShape } from '../capabilities.js';

export interface MatrixForm extends MatrixShape {
  /** halves that a number of the operands is split in; 1 of floats */
  parts: 1 | 2;
  /** whether the shader sets the size of its subgroups: where a device has several */
  setsLanes: boolean;
}

/** What decode and the backward are written for. */
export const sixteen: MatrixForm = { ...knownMatrices[0], parts: 1, setsLanes: false };

/** The form that a lane has on a device, or why it has none. Where the matrices are of float32, nothing is split. */
export function formOf(lane: MatrixLane, device: Capabilities): MatrixForm | string {
  const shape = matrixOf(lane, device);
  if (typeof shape === 'string') return shape;
  const parts = lane === 'T3x' && shape.operand === 'f16' ? 2 : 1;
  return { ...shape, parts, setsLanes: device.subgroups?.min !== device.subgroups?.max };
}

export function nameOfForm({ m, n, k, operand, lanes, parts, setsLanes }: MatrixForm): string {
  const numbers = operand === 'f32' ? 'floats' : parts === 2 ? 'split halves' : 'halves';
  return `${numbers} in ${m}x${n}x${k}${setsLanes ? `, subgroups set to ${lanes}` : ''}`;
}

/** Numbers of the operands in a unit, which is sixteen bytes. */
export function unitSize({ operand }: MatrixShape): number {
  return operand === 'f16' ? 8 : 4;
}

/** Units that the depth of one matrix spans, and the columns of a right one. */
export function matrixUnits(form: MatrixShape): { depth: number; columns: number } {
  return { depth: form.k / unitSize(form), columns: form.n / unitSize(form) };
}

/** Registers of a thread that a left matrix takes, in all of its parts, and a matrix of sums. */
export function matrixRegisters(form: MatrixForm): { left: number; sums: number } {
  const { m, n, k, lanes, parts } = form;
  return { left: (4 * parts * m * k) / unitSize(form) / lanes, sums: (m * n) / lanes };
}

/** Units of a row of each part. */
export function unitCounts(
  { DN, DR, DV }: { DN: number; DR: number; DV: number },
  form: MatrixShape = sixteen,
): { DN_UNITS: number; DR_UNITS: number; QK_UNITS: number; DV_UNITS: number } {
  const [DN_UNITS, DR_UNITS, DV_UNITS] = [DN, DR, DV].map((columns) => Math.ceil(columns / unitSize(form)));
  return { DN_UNITS, DR_UNITS, QK_UNITS: DN_UNITS + DR_UNITS, DV_UNITS };
}
