import { fail } from '../core/errors.js';
import { checkPositive } from './layerTypes.js';
import type { RopeScaling } from './rotaryEmbedding.js';

/** Sizes and switches, in the words of DeepSeek's config.json. */
export interface MultiHeadLatentAttentionConfig {
  numHeads: number;
  /** Columns of a query and key head without and with rotary position. */
  qkNopeHeadDim: number;
  qkRopeHeadDim: number;
  vHeadDim: number;
  /** Columns of the latent that a cache keeps of each token. */
  kvLoraRank: number;
  /** Columns of the queries' latent; null = queries straight from the input. Default null. */
  qLoraRank?: number | null;
  /** Default 10000. */
  ropeTheta?: number;
  /** Default null: plain rotary embedding. */
  ropeScaling?: RopeScaling | null;
  /** Biases on q_a_proj, kv_a_proj_with_mqa and o_proj. Default false. */
  attentionBias?: boolean;
  /** Default true: rotary pairs are neighbours. */
  ropeInterleave?: boolean;
  /** eps of the norms on the latents. Default 1e-6, which DeepSeek's models use here whatever their other norms do. */
  rmsNormEps?: number;
  /** Read a mask back and throw unless it is right-padded: a stop of the device, so off by default. */
  validateMask?: boolean;
  /** Deviation of the initial weights. Default 0.02. */
  initializerRange?: number;
  /** Makes the initial weights repeatable. */
  seed?: number | null;
}

const fn = 'MultiHeadLatentAttention';

/** The whole configuration, checked. Leaves out whatever else a layer's arguments hold. */
export function withDefaults(
  config: MultiHeadLatentAttentionConfig,
): Required<MultiHeadLatentAttentionConfig> {
  const { numHeads, qkNopeHeadDim, qkRopeHeadDim, vHeadDim, kvLoraRank, qLoraRank = null } = config;
  checkPositive(fn, { numHeads, qkNopeHeadDim, qkRopeHeadDim, vHeadDim, kvLoraRank });
  if (qLoraRank !== null) checkPositive(fn, { qLoraRank });
  if (qkRopeHeadDim % 2 !== 0) fail(fn, `qkRopeHeadDim must be even, got ${qkRopeHeadDim}`);
  return {
    numHeads,
    qkNopeHeadDim,
    qkRopeHeadDim,
    vHeadDim,
    kvLoraRank,
    qLoraRank,
    ropeTheta: config.ropeTheta ?? 10000,
    ropeScaling: config.ropeScaling ?? null,
    attentionBias: config.attentionBias ?? false,
    ropeInterleave: config.ropeInterleave ?? true,
    rmsNormEps: config.rmsNormEps ?? 1e-6,
    validateMask: config.validateMask ?? false,
    initializerRange: config.initializerRange ?? 0.02,
    seed: config.seed ?? null,
  };
}

/** Every weight by name, in the order in which a layer creates and saves them. */
export function weightShapes(
  config: Required<MultiHeadLatentAttentionConfig>,
  hidden: number,
): Record<string, number[]> {
  const {
    numHeads: h,
    qkNopeHeadDim: dn,
    qkRopeHeadDim: dr,
    vHeadDim: dv,
    kvLoraRank: r,
    qLoraRank,
  } = config;
  const bias = (name: string, size: number): Record<string, number[]> =>
    config.attentionBias ? { [`${name}_bias`]: [size] } : {};
  const queries: Record<string, number[]> =
    qLoraRank === null
      ? { q_proj_nope: [h * dn, hidden], q_proj_rope: [h * dr, hidden] }
      : {
          q_a_proj: [qLoraRank, hidden],
          ...bias('q_a_proj', qLoraRank),
          q_a_layernorm: [qLoraRank],
          q_b_proj_nope: [h * dn, qLoraRank],
          q_b_proj_rope: [h * dr, qLoraRank],
        };
  return {
    ...queries,
    kv_a_proj_latent: [r, hidden],
    kv_a_proj_rope: [dr, hidden],
    ...bias('kv_a_proj_latent', r),
    ...bias('kv_a_proj_rope', dr),
    kv_a_layernorm: [r],
    kv_b_proj_key: [h * dn, r],
    kv_b_proj_value: [h * dv, r],
    o_proj: [hidden, h * dv],
    ...bias('o_proj', hidden),
  };
}
