import { fail } from '../core/errors.js';
import type { RopeScaling } from '../layers/rotaryEmbedding.js';

/** A dense DeepSeek-V3 decoder, in the words of its config.json. */
export interface DeepseekConfig {
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  qkNopeHeadDim: number;
  qkRopeHeadDim: number;
  vHeadDim: number;
  kvLoraRank: number;
  qLoraRank: number | null;
  maxPositionEmbeddings: number;
  ropeTheta: number;
  ropeScaling: RopeScaling | null;
  ropeInterleave: boolean;
  attentionBias: boolean;
  rmsNormEps: number;
  tieWordEmbeddings: boolean;
  initializerRange: number;
  bosTokenId: number | null;
  eosTokenId: number | number[] | null;
}

const file = 'config.json';

type Json = Record<string, unknown>;

/**
 * Reads a Hugging Face config.json in either spelling: rope_theta, rope_scaling and torch_dtype, or transformers 5's
 * rope_parameters and dtype. Switches that are absent have Hugging Face's defaults.
 *
 * Throws, naming the key, on a missing size and on whatever this model does not do.
 */
export function readConfig(json: Json): DeepseekConfig {
  checkSupported(json);
  const maxPositionEmbeddings = size(json, 'max_position_embeddings');
  return {
    vocabSize: size(json, 'vocab_size'),
    hiddenSize: size(json, 'hidden_size'),
    intermediateSize: size(json, 'intermediate_size'),
    numHiddenLayers: size(json, 'num_hidden_layers'),
    numAttentionHeads: size(json, 'num_attention_heads'),
    qkNopeHeadDim: size(json, 'qk_nope_head_dim'),
    qkRopeHeadDim: size(json, 'qk_rope_head_dim'),
    vHeadDim: size(json, 'v_head_dim'),
    kvLoraRank: size(json, 'kv_lora_rank'),
    qLoraRank: json.q_lora_rank === null ? null : size(json, 'q_lora_rank'),
    maxPositionEmbeddings,
    ...readRope(json, maxPositionEmbeddings),
    ropeInterleave: flag(json, 'rope_interleave', true),
    attentionBias: flag(json, 'attention_bias', false),
    rmsNormEps: number(json, 'rms_norm_eps', 1e-6),
    tieWordEmbeddings: flag(json, 'tie_word_embeddings', false),
    initializerRange: number(json, 'initializer_range', 0.02),
    bosTokenId: (json.bos_token_id ?? null) as number | null,
    eosTokenId: (json.eos_token_id ?? null) as number | number[] | null,
  };
}

/** A config.json that Hugging Face's DeepseekV3ForCausalLM and readConfig both read. */
export function writeConfig(config: DeepseekConfig): Json {
  return {
    architectures: ['DeepseekV3ForCausalLM'],
    model_type: 'deepseek_v3',
    vocab_size: config.vocabSize,
    hidden_size: config.hiddenSize,
    intermediate_size: config.intermediateSize,
    num_hidden_layers: config.numHiddenLayers,
    num_attention_heads: config.numAttentionHeads,
    num_key_value_heads: config.numAttentionHeads,
    qk_nope_head_dim: config.qkNopeHeadDim,
    qk_rope_head_dim: config.qkRopeHeadDim,
    v_head_dim: config.vHeadDim,
    kv_lora_rank: config.kvLoraRank,
    q_lora_rank: config.qLoraRank,
    max_position_embeddings: config.maxPositionEmbeddings,
    rope_theta: config.ropeTheta,
    rope_scaling: writeScaling(config.ropeScaling),
    rope_interleave: config.ropeInterleave,
    attention_bias: config.attentionBias,
    attention_dropout: 0,
    hidden_act: 'silu',
    rms_norm_eps: config.rmsNormEps,
    tie_word_embeddings: config.tieWordEmbeddings,
    initializer_range: config.initializerRange,
    bos_token_id: config.bosTokenId,
    eos_token_id: config.eosTokenId,
    // every layer dense; Hugging Face's default would make all but three a mixture of experts
    first_k_dense_replace: config.numHiddenLayers,
    torch_dtype: 'float32',
    use_cache: true,
  };
}

function checkSupported(json: Json): void {
  const layers = size(json, 'num_hidden_layers');
  const denseLayers = number(json, 'first_k_dense_replace', 3);
  const heads = size(json, 'num_attention_heads');
  support('model_type', json.model_type, 'deepseek_v3');
  if (denseLayers < layers && json.n_routed_experts !== null) {
    unsupported(
      `first_k_dense_replace=${denseLayers} of num_hidden_layers=${layers}`,
      'dense layers only (first_k_dense_replace >= num_hidden_layers)',
      'mixture-of-experts layers',
    );
  }
  support('num_key_value_heads', json.num_key_value_heads ?? heads, heads);
  support('hidden_act', json.hidden_act ?? 'silu', 'silu');
  support('quantization_config', json.quantization_config ?? null, null);
}

function readRope(json: Json, window: number): { ropeTheta: number; ropeScaling: RopeScaling | null } {
  const newStyle = json.rope_parameters as Json | null | undefined;
  const scaling = (newStyle ?? json.rope_scaling) as Json | null | undefined;
  const ropeTheta = number(newStyle ?? json, 'rope_theta', 10000);
  const type = scaling?.rope_type ?? scaling?.type ?? 'default';
  if (!scaling || type === 'default') return { ropeTheta, ropeScaling: null };
  const key = newStyle ? 'rope_parameters' : 'rope_scaling';
  support(`${key}.type`, type, 'yarn');
  support(`${key}.attention_factor`, scaling.attention_factor ?? null, null);
  support(`${key}.truncate`, scaling.truncate ?? true, true);
  return {
    ropeTheta,
    ropeScaling: {
      type: 'yarn',
      factor: number(scaling, 'factor'),
      originalMaxPositionEmbeddings: number(scaling, 'original_max_position_embeddings', window),
      betaFast: number(scaling, 'beta_fast', 32),
      betaSlow: number(scaling, 'beta_slow', 1),
      mscale: number(scaling, 'mscale', 0),
      mscaleAllDim: number(scaling, 'mscale_all_dim', 0),
    },
  };
}

function writeScaling(scaling: RopeScaling | null): Json | null {
  if (!scaling) return null;
  const { mscale, mscaleAllDim } = scaling;
  return {
    type: 'yarn',
    factor: scaling.factor,
    original_max_position_embeddings: scaling.originalMaxPositionEmbeddings,
    beta_fast: scaling.betaFast ?? 32,
    beta_slow: scaling.betaSlow ?? 1,
    ...(mscale ? { mscale } : {}),
    ...(mscaleAllDim ? { mscale_all_dim: mscaleAllDim } : {}),
  };
}

function size(json: Json, key: string): number {
  const value = json[key];
  if (!Number.isInteger(value) || (value as number) < 1) {
    fail(file, `${key} must be a positive integer, got ${JSON.stringify(value)}`);
  }
  return value as number;
}

function number(json: Json, key: string, fallback?: number): number {
  const value = json[key] ?? fallback;
  if (typeof value !== 'number' || !Number.isFinite(value)) {
    fail(file, `${key} must be a number, got ${JSON.stringify(json[key])}`);
  }
  return value;
}

function flag(json: Json, key: string, fallback: boolean): boolean {
  const value = json[key] ?? fallback;
  if (typeof value !== 'boolean') fail(file, `${key} must be true or false, got ${JSON.stringify(value)}`);
  return value;
}

function support(key: string, value: unknown, supported: unknown): void {
  if (value !== supported)
    unsupported(`${key}=${JSON.stringify(value)}`, `${key}=${JSON.stringify(supported)}`);
}

function unsupported(required: string, supported: string, missing?: string): never {
  fail(file, `required: ${required}, supported: ${supported}${missing ? `; missing: ${missing}` : ''}`);
}
