/** What differs from call to call without a new shader: sizes, strides, scale, mask. */
import type { MlaProblem } from '../../src/core/problem.js';
import { reach } from '../../src/core/visibility.js';

/** How a kernel cuts up its work, beside the problem itself. */
export interface Cut {
  /** tiles of the operand that a workgroup owns */
  tiles: number;
  /** parts into which the walk over keys is split; their results are merged by a second dispatch */
  splits: number;
  /** whether their outputs are halves until they are merged */
  hasHalfParts?: boolean;
  /** where each region of packed halves begins, in units of eight; lane T3 only */
  regions?: Partial<Record<Region, number>>;
  /** (batch, key/value heads) of this dispatch, if they are not all; lane T3 only */
  heads?: { first: number; count: number };
}

/** The operands that lane T3 keeps as halves. */
export type Region = 'q' | 'k' | 'k_rope' | 'v' | 'd_out';

const at =
  (region: Region) =>
  (_problem: MlaProblem, { regions }: Cut): number =>
    regions?.[region] ?? 0;

type Field = [name: string, type: 'u32' | 'i32' | 'f32', value: (problem: MlaProblem, cut: Cut) => number];

const fields: Field[] = [
  ['batch', 'u32', ({ b }) => b],
  ['hq', 'u32', ({ hq }) => hq],
  ['hkv', 'u32', ({ hkv }) => hkv],
  ['sq', 'u32', ({ sq }) => sq],
  ['skv', 'u32', ({ skv }) => skv],
  ['q_b', 'u32', ({ strides }) => strides.q.b],
  ['q_s', 'u32', ({ strides }) => strides.q.s],
  ['q_h', 'u32', ({ strides }) => strides.q.h],
  ['q_rope_b', 'u32', ({ strides }) => strides.qRope.b],
  ['q_rope_s', 'u32', ({ strides }) => strides.qRope.s],
  ['q_rope_h', 'u32', ({ strides }) => strides.qRope.h],
  ['k_b', 'u32', ({ strides }) => strides.k.b],
  ['k_s', 'u32', ({ strides }) => strides.k.s],
  ['k_h', 'u32', ({ strides }) => strides.k.h],
  ['k_rope_b', 'u32', ({ strides }) => strides.kRope.b],
  ['k_rope_s', 'u32', ({ strides }) => strides.kRope.s],
  ['v_b', 'u32', ({ strides }) => strides.v.b],
  ['v_s', 'u32', ({ strides }) => strides.v.s],
  ['v_h', 'u32', ({ strides }) => strides.v.h],
  ['out_b', 'u32', ({ strides }) => strides.out.b],
  ['out_s', 'u32', ({ strides }) => strides.out.s],
  ['out_h', 'u32', ({ strides }) => strides.out.h],
  ['scale', 'f32', ({ softmaxScale }) => softmaxScale],
  ['left', 'i32', (problem) => reach(problem).left],
  ['right', 'i32', (problem) => reach(problem).right],
  ['is_top_left', 'u32', ({ causal }) => (causal === 'top-left' ? 1 : 0)],
  // WGSL has no literal for it
  ['minus_infinity', 'f32', () => -Infinity],
  ['tiles', 'u32', (_problem, { tiles }) => tiles],
  ['splits', 'u32', (_problem, { splits }) => splits],
  ['first_head', 'u32', (_problem, { heads }) => heads?.first ?? 0],
  ['heads', 'u32', ({ b, hkv }, { heads }) => heads?.count ?? b * hkv],
  ['q_at', 'u32', at('q')],
  ['k_at', 'u32', at('k')],
  ['k_rope_at', 'u32', at('k_rope')],
  ['v_at', 'u32', at('v')],
  ['d_out_at', 'u32', at('d_out')],
];

/** The struct as WGSL, bound as `u`. */
export function problemUniforms(binding: number): string {
  const members = fields.map(([name, type]) => `  ${name}: ${type},`);
  return `
struct Uniforms {
${members.join('\n')}
}
@group(0) @binding(${binding}) var<uniform> u: Uniforms;`;
}

/** Its content for one call. */
export function packUniforms(problem: MlaProblem, cut: Cut): ArrayBuffer {
  return packNumbers(fields.map(([, type, value]) => [type, value(problem, cut)]));
}

/** Numbers one behind the other, as a uniform buffer holds them. */
export function packNumbers(numbers: ['u32' | 'i32' | 'f32', number][]): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(Math.ceil(numbers.length / 4) * 16));
  numbers.forEach(([type, value], index) => {
    if (type === 'f32') view.setFloat32(4 * index, value, true);
    else view.setInt32(4 * index, value, true);
  });
  return view.buffer;
}
