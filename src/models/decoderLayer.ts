import { tidy } from '@tensorflow/tfjs-core';
import type { Tensor2D, Variable } from '@tensorflow/tfjs-core';
import type { LayerVariable } from '@tensorflow/tfjs-layers';
import type { LatentCache } from '../cache/latentCache.js';
import { MultiHeadLatentAttention } from '../layers/multiHeadLatentAttention.js';
import { RMSNorm } from '../layers/rmsNorm.js';
import type { RopeTables } from '../layers/rotaryEmbedding.js';
import { SwiGLU } from '../layers/swiGlu.js';
import type { DeepseekConfig } from './config.js';
import { parameter } from './parameters.js';
import type { ModelParameter } from './parameters.js';

/** How the attention of a decoder layer runs: in full, in full while filling a cache, or absorbed over a cache. */
export type Attend = (attention: MultiHeadLatentAttention, x: Tensor2D) => Tensor2D;

/** Rows [b·s, hidden] on their way through the layers: `x`, and what the last layer adds to it, which the next norm does. */
export interface Residual {
  x: Tensor2D;
  addend?: Tensor2D;
}

/** x + attention(norm(x)), then x + mlp(norm(x)): DeepSeek-V2, arXiv:2405.04434, section 2. */
export class DecoderLayer {
  readonly attention: MultiHeadLatentAttention;
  private readonly inputNorm: RMSNorm;
  private readonly attentionNorm: RMSNorm;
  private readonly mlp: SwiGLU;

  /** `seed` undefined: weights start as zeros, to be loaded. */
  constructor(
    config: DeepseekConfig,
    readonly index: number,
    seed: number | undefined,
  ) {
    const { hiddenSize, intermediateSize, initializerRange, rmsNormEps } = config;
    this.attention = new MultiHeadLatentAttention({
      ...config,
      numHeads: config.numAttentionHeads,
      // the norms on the latents keep DeepSeek's 1e-6, whatever rms_norm_eps says
      rmsNormEps: 1e-6,
      seed,
    });
    this.inputNorm = new RMSNorm({ rmsNormEps });
    this.attentionNorm = new RMSNorm({ rmsNormEps });
    this.mlp = new SwiGLU({ intermediateSize, initializerRange, seed: seed === undefined ? seed : seed + 1 });
    for (const layer of [this.attention, this.inputNorm, this.attentionNorm, this.mlp]) {
      layer.setFastWeightInitDuringBuild(seed === undefined);
      layer.build([null, null, hiddenSize]);
    }
  }

  /** Between the ops of a layer nothing is reshaped, and nothing added but by norms. */
  run({ x, addend }: Residual, attend: Attend): Required<Residual> {
    return tidy(() => {
      const input = this.inputNorm.addAndNorm(x, addend);
      const attended = attend(this.attention, input.normed);
      const { normed, sum } = this.attentionNorm.addAndNorm(input.sum, attended);
      return { x: sum, addend: this.mlp.call(normed) as Tensor2D };
    });
  }

  /** Under Hugging Face's names. */
  get parameters(): ModelParameter[] {
    const prefix = `model.layers.${this.index}`;
    const own = (name: string, weight: LayerVariable): ModelParameter =>
      parameter(`${prefix}.${name}.weight`, [variableOf(weight)]);
    return [
      ...attentionParameters(this.attention, `${prefix}.self_attn`),
      own('mlp.gate_proj', this.mlp.gateProj),
      own('mlp.up_proj', this.mlp.upProj),
      own('mlp.down_proj', this.mlp.downProj),
      own('input_layernorm', this.inputNorm.gain),
      own('post_attention_layernorm', this.attentionNorm.gain),
    ];
  }
}

/** Full attention over all positions at once. */
export function attendInFull(rope: RopeTables): Attend {
  return (attention, x) => attention.call(x, { rope }) as Tensor2D;
}

/** Full attention that fills a layer's empty cache. */
export function attendAndFill(cache: LatentCache, rope: RopeTables, counts?: readonly number[]): Attend {
  return (attention, x) => attention.prefill(x, cache, counts, rope);
}

/** Absorbed attention over a layer's cache. */
export function attendToCache(cache: LatentCache, rope: RopeTables): Attend {
  return (attention, x) => attention.step(x, cache, rope);
}

/** tfjs-layers' variables are tf.Variables behind read(). */
export function variableOf(weight: LayerVariable): Variable {
  return weight.read() as Variable;
}

function attentionParameters(attention: MultiHeadLatentAttention, prefix: string): ModelParameter[] {
  const { numHeads, qLoraRank } = attention.config;
  const parts = (...names: string[]): Variable[] =>
    names.flatMap((name) => attention.parts.get(name) ?? []).map(variableOf);
  const weight = (name: string, partNames: string[], groups = 1): ModelParameter[] => {
    const biases = parts(...partNames.map((part) => `${part}_bias`));
    return [
      parameter(`${prefix}.${name}.weight`, parts(...partNames), groups),
      ...(biases.length ? [parameter(`${prefix}.${name}.bias`, biases, groups)] : []),
    ];
  };
  const queries =
    qLoraRank === null
      ? weight('q_proj', ['q_proj_nope', 'q_proj_rope'], numHeads)
      : [
          ...weight('q_a_proj', ['q_a_proj']),
          ...weight('q_a_layernorm', ['q_a_layernorm']),
          ...weight('q_b_proj', ['q_b_proj_nope', 'q_b_proj_rope'], numHeads),
        ];
  return [
    ...queries,
    ...weight('kv_a_proj_with_mqa', ['kv_a_proj_latent', 'kv_a_proj_rope']),
    ...weight('kv_a_layernorm', ['kv_a_layernorm']),
    ...weight('kv_b_proj', ['kv_b_proj_key', 'kv_b_proj_value'], numHeads),
    ...weight('o_proj', ['o_proj']),
  ];
}
