import { matMul, reshape, serialization, tidy, transpose } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor1D, Tensor2D, Tensor3D, Tensor4D } from '@tensorflow/tfjs-core';
import { initializers, layers } from '@tensorflow/tfjs-layers';
import type { LayerVariable, Shape } from '@tensorflow/tfjs-layers';
import type { LatentCache } from '../cache/latentCache.js';
import { fail, shapeText } from '../core/errors.js';
import { mlaAttention } from '../ops/mlaAttention.js';
import type { MlaAttentionOptions } from '../ops/mlaAttention.js';
import { mlaDecode } from '../ops/mlaDecode.js';
import { weightShapes, withDefaults } from './attentionConfig.js';
import type { MultiHeadLatentAttentionConfig } from './attentionConfig.js';
import { lengthsFromInput, lengthsFromMask } from './attentionMask.js';
import { checkInput, first, firstShape, lastAxis, normal } from './layerTypes.js';
import type { LayerArgs } from './layerTypes.js';
import { linear, linears } from './linear.js';
import type { LinearMap } from './linear.js';
import { rmsNorm } from './rmsNorm.js';
import { RotaryEmbedding } from './rotaryEmbedding.js';
import type { RopeTables } from './rotaryEmbedding.js';
import { asMatrix } from './rowwise.js';

const fn = 'MultiHeadLatentAttention';

export interface MultiHeadLatentAttentionArgs extends LayerArgs, MultiHeadLatentAttentionConfig {}

/**
 * Beside the input: a mask [b, s] of tfjs-layers, and the rotary tables if the caller has them already. With tables the input
 * may also be rows [b·s, hidden], and the output is rows then.
 */
export interface AttentionCall {
  mask?: Tensor | Tensor[] | null;
  rope?: RopeTables;
}

/** mlaAttention, or what gives the same result. */
export type FullForm = (
  q: Tensor4D,
  k: Tensor4D,
  v: Tensor4D,
  options?: MlaAttentionOptions & { returnLse?: false },
) => Tensor4D;

/** An input as rows [b·s, hidden], and what is known of their places. */
interface Tokens {
  rows: Tensor2D;
  b: number;
  s: number;
  rope: RopeTables;
}

/** Queries before their rotary columns are turned, [b·s, heads·d], and what a token leaves in a cache. */
interface Projected {
  qNope: Tensor2D;
  qRope: Tensor2D;
  /** [b·s, kvLoraRank] */
  cKv: Tensor2D;
  /** [b, s, qkRopeHeadDim] */
  kRope: Tensor3D;
}

/**
 * Causal self-attention whose keys and values come from one small latent per token.
 *
 * Input [b, s, hidden] → [b, s, hidden]. Padding on the right is known by a mask (Masking or an Embedding with
 * maskZero) or by lengths as a second input, `apply([x, lengths])` with lengths [b] or [b, 1]; the lengths win.
 * Padded positions give 0 (or o_proj's bias) and no gradient.
 *
 * `call` is the full form, for training; `step` the absorbed form over a LatentCache, for generation; `prefill` the
 * full form that also fills an empty cache. All give the same numbers.
 *
 * Weights are [out, in], and kept in the parts in which they are used: what one Hugging Face tensor stacks by rows
 * (a head's nope and rope columns, a head's keys and values) is several weights here, so that nothing is sliced.
 *
 * Throws on bad sizes (constructor), a bad input, mask or lengths (call) and a cache of other sizes or full (step).
 *
 * Source: DeepSeek-V2, arXiv:2405.04434, section 2.1, eq. 9-19 and 37-47; absorbed form: end of section 2.1.2;
 * names, norms on the latents and biases as in Hugging Face's DeepseekV3Attention.
 */
export class MultiHeadLatentAttention extends layers.Layer {
  static get className(): string {
    return fn;
  }

  readonly config: Required<MultiHeadLatentAttentionConfig>;
  readonly rope: RotaryEmbedding;
  /** 1/sqrt(dqk), times YaRN's correction. */
  readonly softmaxScale: number;
  /** By name: see weightShapes. */
  readonly parts = new Map<string, LayerVariable>();
  /** The full form's op. Not part of the config: the benchmarks put composed tfjs ops in its place. */
  fullForm: FullForm = mlaAttention;

  constructor(args: MultiHeadLatentAttentionArgs) {
    super(args);
    this.config = withDefaults(args);
    const { qkNopeHeadDim, qkRopeHeadDim } = this.config;
    this.rope = new RotaryEmbedding({ ...this.config, dim: qkRopeHeadDim });
    this.softmaxScale = this.rope.softmaxCorrection / Math.sqrt(qkNopeHeadDim + qkRopeHeadDim);
    this.supportsMasking = true;
  }

  override build(inputShape: Shape | Shape[]): void {
    const hidden = lastAxis(fn, inputShape);
    const { initializerRange, seed } = this.config;
    for (const [index, [name, shape]] of Object.entries(weightShapes(this.config, hidden)).entries()) {
      const initializer = name.endsWith('norm')
        ? initializers.ones()
        : name.endsWith('bias')
          ? initializers.zeros()
          : normal(initializerRange, seed ?? undefined, index);
      this.parts.set(name, this.addWeight(name, shape, 'float32', initializer));
    }
    super.build(inputShape);
  }

  override computeOutputShape(inputShape: Shape | Shape[]): Shape {
    return firstShape(inputShape);
  }

  override computeMask(_inputs: Tensor | Tensor[], mask?: Tensor | Tensor[]): Tensor {
    return first(mask as Tensor);
  }

  /** The full form. */
  override call(inputs: Tensor | Tensor[], { mask, rope }: AttentionCall = {}): Tensor {
    return tidy(() => {
      const x = first(inputs);
      const tokens = this.tokens(x, rope);
      const projected = this.project(tokens);
      return this.attend(tokens, projected, this.lengths(inputs, tokens, mask), x.shape);
    });
  }

  /**
   * The full form on the first tokens of a sequence, which also fills an empty cache.
   * `counts`: how many tokens of each entry are real, for prompts padded on the right.
   */
  prefill<T extends Tensor>(x: T, cache: LatentCache, counts?: readonly number[], rope?: RopeTables): T {
    if (cache.lengths.some((length) => length > 0)) {
      fail(fn, `prefill needs an empty cache, got lengths ${shapeText(cache.lengths)}`);
    }
    return tidy(() => {
      const tokens = this.tokens(x, rope);
      const projected = this.project(tokens);
      this.append(cache, tokens, projected, counts);
      return this.attend(tokens, projected, counts, x.shape) as T;
    });
  }

  /**
   * The absorbed form: the next tokens [b, n, hidden] of each sequence, whose earlier ones are in the cache.
   * Their latents are appended to it. Not differentiable: a cache is written in place.
   */
  step<T extends Tensor>(x: T, cache: LatentCache, rope?: RopeTables): T {
    return tidy(() => {
      const { numHeads: h, qkNopeHeadDim } = this.config;
      const tokens = this.tokens(x, rope, cache.lengths);
      const projected = this.project(tokens);
      const nope: Tensor4D = reshape(projected.qNope, [tokens.b, tokens.s, h, qkNopeHeadDim]);
      this.append(cache, tokens, projected);
      const out = mlaDecode(
        this.perHead(nope, 'kv_b_proj_key', false),
        this.rope.turnRows(projected.qRope, tokens.rope, h) as Tensor4D,
        cache.cKv,
        cache.kRope,
        { softmaxScale: this.softmaxScale, kvLengths: cache.lengths },
      );
      return this.merge(this.perHead(out, 'kv_b_proj_value', true), x.shape) as T;
    });
  }

  override getConfig(): serialization.ConfigDict {
    return { ...super.getConfig(), ...this.config } as unknown as serialization.ConfigDict;
  }

  override dispose(): ReturnType<layers.Layer['dispose']> {
    this.rope.dispose();
    return super.dispose();
  }

  private tokens(x: Tensor, rope?: RopeTables, starts: readonly number[] = [0]): Tokens {
    if (x.rank === 2 && rope) {
      const s = rope.cos.shape[1];
      if (x.shape[0] % s !== 0) {
        fail(fn, `the input's rows must be a multiple of the tables' s=${s}, got ${shapeText(x.shape)}`);
      }
      return { rows: x as Tensor2D, b: x.shape[0] / s, s, rope };
    }
    checkInput(fn, x, 3, '[b, s, hidden]');
    const [b, s] = x.shape;
    return { rows: asMatrix(x), b, s, rope: rope ?? this.rope.at(starts, s) };
  }

  private lengths(
    inputs: Tensor | Tensor[],
    { b, s }: Tokens,
    mask: AttentionCall['mask'],
  ): Tensor1D | undefined {
    if (Array.isArray(inputs) && inputs.length > 1) return lengthsFromInput(fn, inputs[1], b);
    const given = mask ? first(mask) : undefined;
    return given ? lengthsFromMask(fn, given, b, s, this.config.validateMask) : undefined;
  }

  private append(
    cache: LatentCache,
    { b, s }: Tokens,
    { cKv, kRope }: Projected,
    counts?: readonly number[],
  ): void {
    cache.append(reshape(cKv, [b, s, this.config.kvLoraRank]), kRope, counts ? [...counts] : undefined);
  }

  private attend(
    tokens: Tokens,
    { qNope, qRope, cKv, kRope }: Projected,
    lengths: Tensor1D | readonly number[] | undefined,
    shape: number[],
  ): Tensor {
    const { b, s, rope } = tokens;
    const { numHeads: h, qkNopeHeadDim, vHeadDim: dv } = this.config;
    const q = this.rope.turnRows(qRope, rope, h, qNope) as Tensor4D;
    const [k, v] = linears(cKv, [
      { weight: this.weight('kv_b_proj_key'), shape: [b, s, h, qkNopeHeadDim] },
      { weight: this.weight('kv_b_proj_value'), shape: [b, s, h, dv] },
    ]) as Tensor4D[];
    const out = this.fullForm(q, k, v, {
      kRope,
      causal: 'bottom-right',
      softmaxScale: this.softmaxScale,
      qLengths: lengths,
      kvLengths: lengths,
    });
    return this.merge(out, shape);
  }

  /**
   * Eq. 12 and 13 (through the queries' own latent, eq. 37-39, if there is one), and 9, 14 and 15: the latent, normalised,
   * and the rotary key that all heads share. All that reads the input is one call.
   */
  private project({ rows, rope }: Tokens): Projected {
    const { qLoraRank, rmsNormEps } = this.config;
    const map = (name: string): LinearMap => ({ weight: this.weight(name), bias: this.bias(name) });
    const queries = (name: string): LinearMap[] => [map(`${name}_nope`), map(`${name}_rope`)];
    const [latent, rotary, ...ofQueries] = linears(rows, [
      map('kv_a_proj_latent'),
      map('kv_a_proj_rope'),
      ...(qLoraRank === null ? queries('q_proj') : [map('q_a_proj')]),
    ]) as Tensor2D[];
    const [qNope, qRope] =
      qLoraRank === null
        ? ofQueries
        : (linears(
            rmsNorm(ofQueries[0], this.gain('q_a_layernorm'), rmsNormEps),
            queries('q_b_proj'),
          ) as Tensor2D[]);
    return {
      qNope,
      qRope,
      cKv: rmsNorm(latent, this.gain('kv_a_layernorm'), rmsNormEps),
      kRope: this.rope.turnRows(rotary, rope, 0) as Tensor3D,
    };
  }

  /** What the heads have found, [b, s, h, dv], together: [b, s, hidden] or [b·s, hidden]. */
  private merge(heads: Tensor4D, shape: number[]): Tensor {
    return linear(heads, { weight: this.weight('o_proj'), bias: this.bias('o_proj'), shape });
  }

  /** x [b, n, h, in] times each head's own matrix out of a weight [h·rows, columns], as it is or transposed. */
  private perHead(x: Tensor4D, name: string, transposed: boolean): Tensor4D {
    const [b, n, h, columns] = x.shape;
    const weight = this.weight(name);
    const matrices: Tensor3D = reshape(weight, [h, weight.shape[0] / h, weight.shape[1]]);
    // of one token, the heads' rows lie in order already
    const isOneToken = b * n === 1;
    const byHead: Tensor3D = isOneToken
      ? reshape(x, [h, 1, columns])
      : transpose(reshape(x, [b * n, h, columns]), [1, 0, 2]);
    const product: Tensor3D = matMul(byHead, matrices, false, transposed);
    return reshape(isOneToken ? product : transpose(product, [1, 0, 2]), [b, n, h, product.shape[2]]);
  }

  private weight(name: string): Tensor2D {
    const part = this.parts.get(name);
    return part ? (part.read() as Tensor2D) : fail(fn, `weight ${name} is missing: build the layer first`);
  }

  private gain(name: string): Tensor1D {
    return this.weight(name) as Tensor as Tensor1D;
  }

  private bias(name: string): Tensor | undefined {
    return this.parts.get(`${name}_bias`)?.read();
  }
}
serialization.registerClass(MultiHeadLatentAttention);
