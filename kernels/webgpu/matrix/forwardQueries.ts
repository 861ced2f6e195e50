/** The queries of the forward on subgroup matrices: from their tensor through the arena into matrices that stay. */
import type { ForwardConstants } from '../mlaAttention.js';
import { repeat } from '../wgsl.js';
import { matrixUnits, unitCounts } from './form.js';
import type { MatrixForm } from './form.js';
import type { ForwardTile } from './forwardTile.js';
import { loadLefts } from './wgsl.js';

/** Depth of the scores in matrices. */
export function matrixSteps(record: ForwardConstants, form: MatrixForm): number {
  return Math.ceil(unitCounts(record, form).QK_UNITS / matrixUnits(form).depth);
}

/**
 * Rows of queries as operands through the arena into matrices, in as many parts as the arena needs. Rows past the
 * lengths hold what there is: their weights are 0.
 */
export function loadQueries(record: ForwardConstants, tile: ForwardTile): string {
  const { ROWS, KEYS, arena, form } = tile;
  const { depth } = matrixUnits(form);
  const steps = matrixSteps(record, form);
  const divisors = [...Array(steps).keys()].map((i) => i + 1).filter((n) => steps % n === 0);
  const rounds = divisors.find((n) => ROWS * ((steps / n) * depth + 1) <= arena) ?? steps;
  const units = (steps / rounds) * depth;
  const stride = units + 1;
  const names = form.parts === 1 ? ([''] as const) : (['', '_low'] as const);
  return names
    .map((part) =>
      repeat(
        rounds,
        (round) => `
  ${repeat(ROWS / KEYS, (r) => copyQueries(record, tile, part, r * KEYS, round * units, units, stride))}
  workgroupBarrier();
  ${loadLefts('q', 1, steps / rounds, `row_group * ${form.m * stride}u`, stride, (round * steps) / rounds, part, form)}
  workgroupBarrier();`,
      ),
    )
    .join('');
}

/** This thread's share of one row: units of `first` on, to the arena. */
function copyQueries(
  record: ForwardConstants,
  { form, copiers }: ForwardTile,
  part: '' | '_low',
  row: number,
  first: number,
  units: number,
  stride: number,
): string {
  const { DN_UNITS, QK_UNITS } = unitCounts(record, form);
  const at = `(copy_row + ${row}u) * ${stride}u + copy_unit`;
  const m = `min(first_row + copy_row + ${row}u, u.sq * GROUP - 1u)`;
  return repeat(Math.ceil(units / copiers), (i) => {
    const [from, to] = [first + i * copiers, first + Math.min((i + 1) * copiers, units)];
    const unit = `copy_unit + ${from}u`;
    const nope = `q_nope_unit${part}(tile, ${m}, ${unit})`;
    const rope = `q_rope_unit${part}(tile, ${m}, ${unit} - DN_UNITS)`;
    const put = (value: string): string => `arena[${at} + ${i * copiers}u] = ${value};`;
    const both = `if (${unit} < DN_UNITS) { ${put(nope)} } else if (${unit} < QK_UNITS) { ${put(rope)} } else { ${put('vec4u(0u)')} }`;
    const either =
      to <= DN_UNITS
        ? put(nope)
        : from >= DN_UNITS && to <= QK_UNITS
          ? put(rope)
          : QK_UNITS > DN_UNITS
            ? both
            : `if (${unit} < DN_UNITS) { ${put(nope)} } else { ${put('vec4u(0u)')} }`;
    return (i + 1) * copiers <= units ? either : `if (copy_unit < ${units - i * copiers}u) { ${either} }`;
  });
}
