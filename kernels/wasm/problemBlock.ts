/** A call as the kernels read it: assembly/problem.ts, field by field. */
import type { Strides } from '../../src/core/layout.js';
import { qRopeOffset } from '../../src/core/problem.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { reach } from '../../src/core/visibility.js';

export type AddressName = NumberName | TensorName;

/** Addresses of the tensors that a kernel reads or writes; the others are 0. */
export type Addresses = Partial<Record<AddressName, number>>;

type NumberName = (typeof numberNames)[number];
type TensorName = (typeof tensorNames)[number];
type Field = [type: 'i32' | 'f32', value: number];

/** One number for a row, or a length for a batch entry. */
const numberNames = ['qLengths', 'kvLengths', 'lse', 'delta', 'dLse'] as const;

const tensorNames = [
  'q',
  'qRope',
  'k',
  'kRope',
  'v',
  'out',
  'dOut',
  'dQ',
  'dQRope',
  'dK',
  'dKRope',
  'dV',
] as const;

/** Bytes of the numbers, which the compiled kernels must have the same. */
export const problemBytes = 4 * (14 + numberNames.length);

export const blockBytes = problemBytes + 16 * tensorNames.length;

export function writeProblemBlock(
  view: DataView<ArrayBufferLike>,
  problem: MlaProblem,
  addresses: Addresses,
): void {
  [
    ...numbersOf(problem, addresses),
    ...tensorNames.flatMap((name) => rowsOf(name, problem, addresses)),
  ].forEach(([type, value], index) => {
    if (type === 'f32') view.setFloat32(4 * index, value, true);
    else view.setUint32(4 * index, value, true);
  });
}

function numbersOf(problem: MlaProblem, addresses: Addresses): Field[] {
  const { b, hq, hkv, sq, skv, dn, dr, dv, softmaxScale, op, causal, cacheFormat } = problem;
  const { left, right } = reach(problem);
  return [
    ['i32', b],
    ['i32', hq],
    ['i32', hkv],
    ['i32', sq],
    ['i32', skv],
    ['i32', dn],
    ['i32', dr],
    ['i32', dv],
    ['f32', softmaxScale],
    ['i32', op === 'mlaDecode' ? 1 : 0],
    ['i32', cacheFormat === 'float16' ? 1 : 0],
    ['i32', left],
    ['i32', right],
    ['i32', causal === 'top-left' ? 1 : 0],
    ...numberNames.map((name): Field => ['i32', addresses[name] ?? 0]),
  ];
}

function rowsOf(name: TensorName, problem: MlaProblem, addresses: Addresses): Field[] {
  const { b, s, h } = stridesOf(name, problem);
  // q and its rope part may lie in one tensor
  const offset = name === 'qRope' || name === 'dQRope' ? qRopeOffset(problem) : 0;
  const bytes = isPacked(name, problem) ? 2 : 4;
  return [(addresses[name] ?? 0) + bytes * offset, bytes * b, bytes * s, bytes * h].map((value): Field => [
    'i32',
    value,
  ]);
}

function isPacked(name: TensorName, { cacheFormat }: MlaProblem): boolean {
  return cacheFormat === 'float16' && (name === 'k' || name === 'kRope' || name === 'v');
}

function stridesOf(name: TensorName, { strides }: MlaProblem): Strides {
  switch (name) {
    case 'q':
    case 'dQ':
      return strides.q;
    case 'qRope':
    case 'dQRope':
      return strides.qRope;
    case 'k':
    case 'dK':
      return strides.k;
    case 'kRope':
    case 'dKRope':
      return strides.kRope;
    case 'v':
    case 'dV':
      return strides.v;
    case 'out':
    case 'dOut':
      return strides.out;
  }
}
