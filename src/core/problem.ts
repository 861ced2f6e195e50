import { cacheColumns } from './cacheFormat.js';
import type { CacheFormat } from './cacheFormat.js';
import {
  axesText,
  checkCacheFormat,
  checkFloat32,
  checkLayout,
  checkLengths,
  checkRange,
  checkRank,
  checkScale,
  packedTexts,
} from './checks.js';
import { checkPrecision, getDefaultPrecision } from './precision.js';
import type { Precision } from './precision.js';
import { fail, shapeText } from './errors.js';
import { dimsOf, sharedShapeOf, sharedStridesOf, stridesOf } from './layout.js';
import type { Layout, Strides } from './layout.js';

/** Which keys a row sees: all, or those up to a diagonal that ends at the bottom right or starts at the top left. */
export type Causal = 'none' | 'bottom-right' | 'top-left';

/**
 * One call as a plain record: made once, checked once, handed to every kernel and through the tape to the gradient.
 *
 * Both ops are the same mathematics on rows: a query row is [nope | rope] with dn + dr columns, a key row likewise
 * with one rope part for all heads, a value row has dv columns. In MLADecode the latent plays both key and value:
 * dn = dv = r, dr = rr and hkv = 1.
 *
 * Packed sequences and sinks will add fields here.
 */
// eslint-disable-next-line @typescript-eslint/consistent-type-definitions
export type MlaProblem = {
  op: 'mlaAttention' | 'mlaDecode';
  layout: Layout;
  precision: Precision;
  /** of k, kRope and v, which are a cache in MLADecode; 'float32' in MLAAttention */
  cacheFormat: CacheFormat;
  /** batch, query heads, key/value heads, rows and keys */
  b: number;
  hq: number;
  hkv: number;
  sq: number;
  skv: number;
  /** columns of a key that each head has of its own, columns that all heads share, columns of a value */
  dn: number;
  dr: number;
  dv: number;
  softmaxScale: number;
  causal: Causal;
  /** keys left and right of the aligned diagonal; -1 = unbounded */
  window: [number, number];
  hasQLengths: boolean;
  hasKvLengths: boolean;
  /** true when the caller holds lse, so that its gradient can flow */
  returnLse: boolean;
  /** strides of each tensor's rows in numbers, whatever the cache holds them in */
  strides: {
    q: Strides;
    qRope: Strides;
    k: Strides;
    kRope: Strides;
    v: Strides;
    out: Strides;
  };
};

/** What a check needs to know of a tensor. A tf.Tensor is one. */
export interface Described {
  shape: readonly number[];
  dtype: string;
  isDisposed?: boolean;
}

/** Lengths as numbers are checked against the shapes; as an int32 tensor [b] they are clamped by the kernels. */
export type Lengths<T extends Described = Described> = readonly number[] | T;

export interface MaskOptions<T extends Described = Described> {
  /** Order of the axes. Default 'bshd'. */
  layout?: Layout;
  /** false, true (= 'bottom-right'), or the alignment by name. */
  causal?: boolean | 'bottom-right' | 'top-left';
  /** Number of keys that exist, per batch entry. */
  kvLengths?: Lengths<T>;
  /** [left, right] keys around the aligned diagonal, -1 = unbounded. */
  window?: readonly [number, number];
  /** Width of the operands of matrix products; default: setDefaultPrecision's. */
  precision?: Precision;
  /** Also return lse [b, hq, sq], the natural logarithm of the sum of exp(scores). */
  returnLse?: boolean;
}

export interface AttentionOptions<T extends Described = Described> extends MaskOptions<T> {
  /** Multiplies the scores. Default 1/sqrt(dqk). */
  softmaxScale?: number;
  /** Number of rows that exist, per batch entry. */
  qLengths?: Lengths<T>;
}

export interface DecodeOptions<T extends Described = Described> extends MaskOptions<T> {
  /** Multiplies the scores. Required: the latent rank is not the head size that the model was trained with. */
  softmaxScale: number;
}

const maxHeadSize = 256;
const maxLatentRank = 576;
const maxRopeDim = 128;

/**
 * Checks a call of mlaAttention and describes it. Throws on bad rank, dtype, shapes and options, in this order.
 */
export function attentionProblem(
  fn: string,
  inputs: { q: Described; k: Described; v: Described; kRope?: Described },
  options: AttentionOptions,
): MlaProblem {
  const { q, k, v, kRope } = inputs;
  const layout = checkLayout(fn, options.layout);

  checkRank(fn, 'q', q, ['b', 'sq', 'hq', 'dqk'], layout);
  checkRank(fn, 'k', k, ['b', 'skv', 'hkv', 'dqk'], layout);
  checkRank(fn, 'v', v, ['b', 'skv', 'hkv', 'dv'], layout);
  if (kRope) checkRank(fn, 'kRope', kRope, ['b', 'skv', 'dr'], layout);
  checkFloat32(fn, 'q', q);
  checkFloat32(fn, 'k', k);
  checkFloat32(fn, 'v', v);
  if (kRope) checkFloat32(fn, 'kRope', kRope);

  const { b, s: sq, h: hq, d: dqk } = dimsOf(q.shape, layout);
  const kDims = dimsOf(k.shape, layout);
  const vDims = dimsOf(v.shape, layout);
  const { s: skv, h: hkv } = kDims;
  const dr = kRope ? kRope.shape[2] : 0;
  const dn = dqk - dr;
  if (kRope && (dr < 1 || dr > dqk)) {
    fail(fn, `kRope must have from 1 to dqk=${dqk} columns, got ${shapeText(kRope.shape)}`);
  }
  if (kDims.b !== b || kDims.d !== dn) {
    const columns = kRope ? `dqk-dr=${dn}` : `dqk=${dqk}`;
    fail(
      fn,
      `k must be ${axesText([`b=${b}`, 'skv', 'hkv', columns], layout)} for layout '${layout}', got ${shapeText(k.shape)}`,
    );
  }
  if (vDims.b !== b || vDims.s !== skv || vDims.h !== hkv) {
    fail(
      fn,
      `v must be ${axesText([`b=${b}`, `skv=${skv}`, `hkv=${hkv}`, 'dv'], layout)} for layout '${layout}', got ${shapeText(v.shape)}`,
    );
  }
  const ropeShape = sharedShapeOf({ b, s: skv, d: dr }, layout);
  if (kRope?.shape.some((size, axis) => size !== ropeShape[axis])) {
    fail(
      fn,
      `kRope must be ${axesText([`b=${b}`, `skv=${skv}`, 'dr'], layout)} for layout '${layout}', got ${shapeText(kRope.shape)}`,
    );
  }
  if (hkv === 0 ? hq !== 0 : hq % hkv !== 0) {
    fail(fn, `hq must be a multiple of hkv=${hkv}, got hq=${hq}`);
  }
  checkRange(fn, 'dqk', dqk, 1, maxHeadSize);
  checkRange(fn, 'dv', vDims.d, 1, maxHeadSize);

  const { softmaxScale = 1 / Math.sqrt(dqk) } = options;
  const strides = stridesOf({ b, s: sq, h: hq, d: dqk }, layout);
  return {
    op: 'mlaAttention',
    layout,
    cacheFormat: 'float32',
    b,
    hq,
    hkv,
    sq,
    skv,
    dn,
    dr,
    dv: vDims.d,
    softmaxScale: checkScale(fn, softmaxScale),
    ...maskOf(fn, options, { b, skv }, false),
    hasQLengths: checkLengths(fn, 'qLengths', options.qLengths, b, 'sq', sq),
    strides: {
      q: strides,
      qRope: strides,
      k: stridesOf(kDims, layout),
      kRope: sharedStridesOf({ b, s: skv, d: dr }, layout),
      v: stridesOf(vDims, layout),
      out: stridesOf({ b, s: sq, h: hq, d: vDims.d }, layout),
    },
  };
}

/**
 * Checks a call of mlaDecode and describes it. Throws on bad rank, dtype, shapes and options, in this order.
 */
export function decodeProblem(
  fn: string,
  inputs: { qLatent: Described; qRope: Described; cKv: Described; kRope: Described },
  options: DecodeOptions,
): MlaProblem {
  const { qLatent, qRope, cKv, kRope } = inputs;
  // JavaScript callers may leave the options out altogether
  const given: Partial<DecodeOptions> = options;
  const layout = checkLayout(fn, given.layout);

  checkRank(fn, 'qLatent', qLatent, ['b', 'sq', 'hq', 'r'], layout);
  checkRank(fn, 'qRope', qRope, ['b', 'sq', 'hq', 'rr'], layout);
  checkRank(fn, 'cKv', cKv, ['b', 's', 'r']);
  checkRank(fn, 'kRope', kRope, ['b', 's', 'rr']);
  checkFloat32(fn, 'qLatent', qLatent);
  checkFloat32(fn, 'qRope', qRope);
  const cacheFormat = checkCacheFormat(fn, cKv, kRope);

  const { b, s: sq, h: hq, d: r } = dimsOf(qLatent.shape, layout);
  const ropeDims = dimsOf(qRope.shape, layout);
  const skv = cKv.shape[1];
  const rr = ropeDims.d;
  if (ropeDims.b !== b || ropeDims.s !== sq || ropeDims.h !== hq) {
    fail(
      fn,
      `qRope must be ${axesText([`b=${b}`, `sq=${sq}`, `hq=${hq}`, 'rr'], layout)} for layout '${layout}', got ${shapeText(qRope.shape)}`,
    );
  }
  const columns = cacheColumns(fn, 'r', r, cacheFormat);
  const ropeColumns = cacheColumns(fn, 'rr', rr, cacheFormat);
  if (cKv.shape[0] !== b || cKv.shape[2] !== columns) {
    const [perWord, packed] = packedTexts(cacheFormat);
    fail(fn, `cKv must be [b=${b}, s, r${perWord}=${columns}]${packed}, got ${shapeText(cKv.shape)}`);
  }
  if (kRope.shape[0] !== b || kRope.shape[1] !== skv || kRope.shape[2] !== ropeColumns) {
    const [perWord, packed] = packedTexts(cacheFormat);
    fail(
      fn,
      `kRope must be [b=${b}, s=${skv}, rr${perWord}=${ropeColumns}]${packed}, got ${shapeText(kRope.shape)}`,
    );
  }
  checkRange(fn, 'r', r, 1, maxLatentRank);
  checkRange(fn, 'rr', rr, 0, maxRopeDim);
  if (given.softmaxScale === undefined) {
    fail(
      fn,
      'softmaxScale is required: the latent rank is not the head size of the model (pass 1/sqrt(qk_nope_head_dim + qk_rope_head_dim), times the YaRN correction if there is one)',
    );
  }

  const cacheStrides = sharedStridesOf({ b, s: skv, d: r }, 'bshd');
  return {
    op: 'mlaDecode',
    layout,
    cacheFormat,
    b,
    hq,
    hkv: 1,
    sq,
    skv,
    dn: r,
    dr: rr,
    dv: r,
    softmaxScale: checkScale(fn, given.softmaxScale),
    ...maskOf(fn, given, { b, skv }, true),
    hasQLengths: false,
    strides: {
      q: stridesOf({ b, s: sq, h: hq, d: r }, layout),
      qRope: stridesOf(ropeDims, layout),
      k: cacheStrides,
      kRope: sharedStridesOf({ b, s: skv, d: rr }, 'bshd'),
      v: cacheStrides,
      out: stridesOf({ b, s: sq, h: hq, d: r }, layout),
    },
  };
}

/** Columns of a query row before its rope part when both lie in one tensor; 0 when qRope is a tensor of its own. */
export function qRopeOffset(problem: MlaProblem): number {
  return problem.op === 'mlaAttention' ? problem.dn : 0;
}

type MaskFields = Pick<MlaProblem, 'causal' | 'window' | 'hasKvLengths' | 'precision' | 'returnLse'>;

function maskOf(
  fn: string,
  options: MaskOptions,
  { b, skv }: { b: number; skv: number },
  isCausalByDefault: boolean,
): MaskFields {
  const {
    causal = isCausalByDefault,
    window = [-1, -1],
    precision = getDefaultPrecision(),
    returnLse = false,
  } = options;
  if (typeof causal !== 'boolean' && causal !== 'bottom-right' && causal !== 'top-left') {
    fail(fn, `causal must be a boolean, 'bottom-right' or 'top-left', got ${String(causal)}`);
  }
  const isWindow = Array.isArray(window) && window.length === 2;
  if (!isWindow || !window.every((keys) => Number.isInteger(keys) && keys >= -1)) {
    fail(fn, `window must be [left, right], integers from -1 (unbounded), got ${JSON.stringify(window)}`);
  }
  checkPrecision(fn, precision);
  return {
    causal: causal === true ? 'bottom-right' : causal === false ? 'none' : causal,
    window: [window[0], window[1]],
    hasKvLengths: checkLengths(fn, 'kvLengths', options.kvLengths, b, 'skv', skv),
    precision,
    returnLse,
  };
}
