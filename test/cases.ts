/**
 * The one table of cases that tests and benches read. Not a full product: every value of every axis occurs, and the
 * pairs that tend to break meet (cases.test.ts checks that the axes stay covered and the costs stay small).
 */
import type { Layout } from '../src/core/layout.js';

/**
 * Where a case runs. 'small': everywhere, a browser on a software GPU included. 'medium': everywhere but there.
 * 'large': on the reference and on hardware only, since a software GPU does some 0.2 GFLOP/s, and takes a second to
 * compile a shader: cases with the same head sizes and groups share them.
 */
export type Cost = 'small' | 'medium' | 'large';

interface Mask {
  causal: false | 'bottom-right' | 'top-left';
  /** [left, right], -1 = unbounded */
  window: [number, number];
  kvLengths?: number[];
}

export interface AttentionCase extends Mask {
  op: 'mlaAttention';
  name: string;
  cost: Cost;
  layout: Layout;
  b: number;
  hq: number;
  hkv: number;
  sq: number;
  skv: number;
  /** columns of q, how many of them meet kRope (0: there is none), columns of v */
  dqk: number;
  dr: number;
  dv: number;
  softmaxScale?: number;
  qLengths?: number[];
  /** whether lse has a gradient of its own */
  hasDLse: boolean;
}

export interface DecodeCase extends Mask {
  op: 'mlaDecode';
  name: string;
  cost: Cost;
  layout: Layout;
  b: number;
  hq: number;
  sq: number;
  skv: number;
  r: number;
  rr: number;
  softmaxScale: number;
  hasDLse: boolean;
}

export type Case = AttentionCase | DecodeCase;

export interface AppendCase {
  name: string;
  b: number;
  capacity: number;
  r: number;
  rr: number;
  /** rows handed over, rows held before, rows that count */
  n: number;
  lengths: number[];
  counts: number[];
}

const bhsd = { layout: 'bhsd' } as const;
const sbhd = { layout: 'sbhd' } as const;
const dLse = { hasDLse: true };
const causal = { causal: 'bottom-right' } as const;
const topLeft = { causal: 'top-left' } as const;
const deepseek = { dqk: 192, dv: 128 };
const minicpm3 = { dqk: 96, dv: 64 };
const equal = { dqk: 64, dv: 64 };
const odd = { dqk: 7, dv: 5 };
const wide = { dqk: 256, dv: 256 };

type Given<C extends Case> = Partial<Omit<C, 'op' | 'name' | 'cost'>>;

function attention(name: string, given: Given<AttentionCase>, cost: Cost = 'medium'): AttentionCase {
  return {
    op: 'mlaAttention',
    name,
    cost,
    layout: 'bshd',
    b: 1,
    hq: 1,
    hkv: given.hq ?? 1,
    sq: 9,
    skv: given.sq ?? 9,
    dqk: 40,
    dr: 0,
    dv: 24,
    causal: false,
    window: [-1, -1],
    hasDLse: false,
    ...given,
  };
}

function decode(name: string, given: Given<DecodeCase>, cost: Cost = 'medium'): DecodeCase {
  return {
    op: 'mlaDecode',
    name,
    cost,
    layout: 'bshd',
    b: 1,
    hq: 3,
    sq: 1,
    skv: 33,
    r: 64,
    rr: 16,
    softmaxScale: 0.11,
    causal: 'bottom-right',
    window: [-1, -1],
    hasDLse: false,
    ...given,
  };
}

export const attentionCases: AttentionCase[] = [
  // sizes that mean nothing, or next to nothing
  attention('empty batch', { b: 0, hq: 2, ...causal }),
  attention('no rows', { b: 2, sq: 0, skv: 5, dr: 8 }, 'small'),
  attention('no keys', { b: 2, hq: 3, sq: 5, skv: 0, dr: 8, ...dLse }, 'small'),
  attention('no heads', { hq: 0, dr: 8 }),
  attention('one of everything', { sq: 1, dqk: 1, dv: 1 }),
  attention('one row, one key', { b: 2, hq: 3, sq: 1, dr: 8, ...causal }, 'small'),
  attention('one row', { hq: 3, sq: 1, skv: 41, dr: 64, ...deepseek, ...causal, ...dLse }),

  // the head sizes of the models, with and without a shared rope part
  attention('deepseek', { hq: 2, sq: 33, ...deepseek, ...causal }),
  attention('deepseek, rope apart', { ...bhsd, hq: 3, sq: 19, dr: 64, ...deepseek, ...causal }, 'small'),
  attention(
    'minicpm3, sbhd',
    { ...sbhd, b: 2, hq: 3, sq: 9, skv: 21, dr: 32, ...minicpm3, ...causal },
    'small',
  ),
  attention('minicpm3, full', { b: 2, hq: 3, sq: 21, skv: 9, dr: 32, ...minicpm3 }),
  attention('sbhd, full', { ...sbhd, b: 2, hq: 3, sq: 9, skv: 13, dr: 8, ...dLse }),
  attention('odd columns', { b: 2, hq: 3, sq: 5, skv: 7, dr: 3, ...odd, ...causal, ...dLse }, 'small'),
  attention('odd columns, sbhd', { dr: 3, ...sbhd, b: 3, hq: 2, sq: 11, skv: 10, ...odd, ...topLeft }),
  attention('wider values than keys', { ...bhsd, hq: 2, dqk: 6, dv: 41, ...causal }),
  attention('the whole key is shared', { b: 2, hq: 3, dqk: 6, dr: 6, dv: 10, ...causal }),

  // heads
  attention('grouped heads 8 on 2', { b: 2, hq: 8, hkv: 2, sq: 10, dr: 8, ...causal, ...dLse }, 'small'),
  attention('16 heads on 1', { ...sbhd, hq: 16, hkv: 1, sq: 11, skv: 17, dr: 8, ...causal }),
  attention('16 heads, 3 rows', { ...bhsd, b: 2, hq: 16, sq: 3, ...causal }),

  // masks
  attention('rows that see nothing', { ...bhsd, hq: 3, sq: 21, skv: 8, ...causal, ...dLse }, 'small'),
  attention('top left, square', { ...bhsd, hq: 2, dr: 8, ...topLeft }),
  attention('top left, too many rows', { hq: 2, sq: 21, skv: 8, dr: 8, ...topLeft, ...dLse }, 'small'),
  attention('top left, too many keys', { dr: 8, ...bhsd, hq: 2, sq: 8, skv: 21, ...topLeft }),
  attention(
    'ragged keys',
    { b: 3, hq: 2, sq: 8, skv: 41, kvLengths: [41, 8, 23], dr: 8, ...causal },
    'small',
  ),
  attention('ragged keys, full', { dr: 8, ...bhsd, b: 3, sq: 6, skv: 37, kvLengths: [37, 5, 1], ...dLse }),
  attention('fewer keys than rows', { dr: 8, b: 2, hq: 2, sq: 10, skv: 24, kvLengths: [4, 24], ...causal }),
  attention('ragged rows', { ...sbhd, b: 3, sq: 12, skv: 15, qLengths: [12, 1, 7], dr: 8, ...dLse }),
  attention(
    'padded batch',
    {
      ...sbhd,
      b: 3,
      hq: 2,
      sq: 24,
      dr: 8,
      ...causal,
      ...dLse,
      qLengths: [24, 9, 17],
      kvLengths: [24, 9, 17],
    },
    'small',
  ),
  attention(
    'lengths 0',
    { dr: 8, b: 4, sq: 5, skv: 12, qLengths: [5, 0, 3, 0], kvLengths: [0, 12, 7, 0], ...dLse },
    'small',
  ),
  attention('padded, top left', {
    dr: 8,
    ...bhsd,
    b: 2,
    hq: 2,
    sq: 13,
    skv: 11,
    qLengths: [6, 13],
    kvLengths: [11, 5],
    ...topLeft,
  }),
  attention('window to the left', { hq: 2, sq: 30, window: [7, 0], ...causal }),
  attention('window both sides', { ...bhsd, hq: 2, sq: 30, skv: 34, dr: 8, window: [5, 3] }, 'small'),
  attention('window to the right', { sq: 12, skv: 20, window: [-1, 2], ...dLse }),
  attention('window of the diagonal', { ...sbhd, b: 2, sq: 12, window: [0, 0], ...dLse }, 'small'),
  attention('window beside the keys', { hq: 2, sq: 25, skv: 6, window: [2, 1], ...topLeft, ...dLse }),
  attention('ragged window', {
    b: 2,
    hq: 8,
    hkv: 2,
    sq: 14,
    skv: 22,
    dr: 8,
    qLengths: [14, 5],
    kvLengths: [9, 22],
    window: [4, 2],
  }),

  // scales
  attention('scale 0.3', { hq: 2, dr: 8, softmaxScale: 0.3, ...causal }),
  attention('scale 0', { hq: 2, softmaxScale: 0, ...causal }),
  attention('negative scale', { hq: 2, sq: 21, softmaxScale: -0.4, dr: 8 }, 'small'),

  // several tiles, and edges that do not fall together with the tiles'
  attention('113 keys', { hq: 3, sq: 113, ...equal, ...causal }),
  attention('129 rows, 113 keys', { ...bhsd, hq: 2, sq: 129, skv: 113, dr: 32, ...minicpm3, ...causal }),
  attention('113 rows, 129 keys, top left', {
    ...sbhd,
    hq: 16,
    hkv: 4,
    sq: 113,
    skv: 129,
    dr: 8,
    ...topLeft,
  }),
  attention('129 rows, 113 keys, top left', { hq: 2, sq: 129, skv: 113, dr: 8, ...topLeft, ...dLse }),
  attention('deepseek 129', { hq: 2, sq: 129, dr: 64, ...deepseek, ...causal, ...dLse }),
  attention('deepseek, 16 heads', { ...bhsd, hq: 16, sq: 40, skv: 65, dr: 64, ...deepseek, ...causal }),
  attention('36 heads, 300 keys', { b: 6, hq: 6, sq: 3, skv: 300, dr: 8, ...causal }),
  attention('deepseek, one row of many', { b: 2, hq: 16, sq: 1, skv: 300, dr: 64, ...deepseek }),
  attention('wide', { ...bhsd, sq: 129, skv: 113, dr: 64, ...wide, ...causal }),
  attention('ragged tiles', {
    ...bhsd,
    b: 4,
    sq: 113,
    skv: 129,
    dr: 32,
    ...minicpm3,
    ...causal,
    ...dLse,
    qLengths: [113, 64, 1, 33],
    kvLengths: [129, 64, 65, 0],
  }),
  attention('narrow window over tiles', { hq: 2, sq: 129, window: [40, -1], ...equal, ...causal }),
  attention('wide window over tiles', { ...sbhd, b: 2, sq: 113, skv: 129, dr: 8, window: [33, 70] }),

  attention('deepseek 257', { hq: 4, sq: 257, dr: 64, ...deepseek, ...causal }, 'large'),
  attention(
    'grouped 257 on 385',
    { ...sbhd, hq: 4, hkv: 2, sq: 257, skv: 385, dr: 32, ...minicpm3, ...causal, ...dLse, window: [200, -1] },
    'large',
  ),
  attention('long 769', { ...bhsd, sq: 769, kvLengths: [700], ...equal, ...causal }, 'large'),
];

const full = { r: 512, rr: 64, softmaxScale: 0.0722 };

export const decodeCases: DecodeCase[] = [
  decode('empty batch', { b: 0 }),
  decode('no rows', { b: 2, sq: 0 }),
  decode('no keys', { b: 2, sq: 2, skv: 0, ...dLse }, 'small'),
  decode('no heads', { hq: 0 }),
  decode('one key', { b: 2, skv: 1 }),
  decode('deepseek', { hq: 16, skv: 113, ...full }, 'small'),
  decode('deepseek, four tokens', { ...bhsd, hq: 16, sq: 4, skv: 40, ...full, ...dLse }),
  decode('deepseek, ragged', { b: 3, hq: 16, skv: 129, kvLengths: [129, 0, 65], ...full }),
  decode('largest row', { hq: 1, sq: 2, skv: 18, r: 576, rr: 128, softmaxScale: 0.05 }),
  decode('no rope', { b: 2, sq: 3, skv: 20, r: 40, rr: 0, softmaxScale: 0.2, ...dLse }, 'small'),
  decode('odd columns', { b: 2, sq: 5, skv: 7, r: 7, rr: 5, softmaxScale: 0.3, ...dLse }, 'small'),
  decode('even columns', { ...bhsd, b: 2, sq: 3, skv: 9, r: 10, rr: 6, kvLengths: [9, 4] }, 'small'),
  decode('two tokens, sbhd', { ...sbhd, b: 2, sq: 2, skv: 50 }, 'small'),
  decode('four tokens, ragged', { b: 3, sq: 4, skv: 50, kvLengths: [50, 3, 17], ...dLse }, 'small'),
  decode('16 tokens, full', { ...bhsd, b: 2, sq: 16, skv: 21, causal: false }, 'small'),
  decode('17 tokens', { ...sbhd, sq: 17, skv: 19 }),
  decode('more tokens than keys', { sq: 8, skv: 3, ...dLse }),
  decode(
    'top left',
    { b: 2, softmaxScale: -0.2, sq: 5, skv: 12, kvLengths: [12, 2], causal: 'top-left' },
    'small',
  ),
  decode('window', { b: 2, sq: 3, skv: 40, kvLengths: [40, 11], window: [6, -1] }),
  decode('window both sides', { ...bhsd, sq: 9, skv: 15, window: [3, 2], causal: false }),
  decode('128 heads', { hq: 128, skv: 21, r: 32, rr: 8, ...dLse }),
  decode('ranks 256/32', { b: 2, hq: 16, sq: 3, skv: 257, r: 256, rr: 32, kvLengths: [257, 128] }),
  decode('deepseek 513', { b: 2, hq: 16, skv: 513, kvLengths: [512, 257], ...full, ...dLse }),
  decode('100 rows', { ...sbhd, b: 2, sq: 100, skv: 113, kvLengths: [113, 90] }),
  decode('deepseek 2049', { hq: 16, skv: 2049, ...full }, 'large'),
  decode('deepseek, chunk of 65', { hq: 5, sq: 65, skv: 129, ...full, ...dLse }, 'large'),
];

export const appendCases: AppendCase[] = [
  { name: 'one row into an empty cache', b: 1, capacity: 8, r: 512, rr: 64, n: 1, lengths: [0], counts: [1] },
  { name: 'ragged', b: 3, capacity: 9, r: 64, rr: 16, n: 4, lengths: [0, 5, 2], counts: [4, 3, 0] },
  { name: 'the last row', b: 2, capacity: 5, r: 7, rr: 5, n: 2, lengths: [4, 3], counts: [1, 2] },
  { name: 'no rope', b: 2, capacity: 6, r: 33, rr: 0, n: 3, lengths: [1, 0], counts: [3, 2] },
  { name: 'nothing counts', b: 2, capacity: 4, r: 8, rr: 4, n: 2, lengths: [4, 1], counts: [0, 0] },
  { name: 'no rows', b: 1, capacity: 4, r: 8, rr: 4, n: 0, lengths: [2], counts: [0] },
  { name: 'a prompt of 300', b: 1, capacity: 400, r: 128, rr: 64, n: 300, lengths: [77], counts: [299] },
];

/** Floating-point operations of forward, Dq and Dkv together; of the masks, only the bottom right one is left out. */
export function flopsOf(c: Case): number {
  const isCausal = c.causal === 'bottom-right';
  const keysOfRow = (i: number): number =>
    isCausal ? Math.min(c.skv, Math.max(0, i + 1 + c.skv - c.sq)) : c.skv;
  const pairs = Array.from({ length: c.sq }, (_, i) => keysOfRow(i)).reduce((sum, keys) => sum + keys, 0);
  const [dqk, dv] = c.op === 'mlaAttention' ? [c.dqk, c.dv] : [c.r + c.rr, c.r];
  return 2 * c.b * c.hq * pairs * (5 * dqk + 4 * dv);
}
