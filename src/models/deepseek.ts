import { concat, dispose, randomNormal, reshape, slice, tidy, variable, zeros } from '@tensorflow/tfjs-core';
import type { Tensor, Tensor2D, Tensor3D, Variable } from '@tensorflow/tfjs-core';
import { LatentCache } from '../cache/latentCache.js';
import type { CacheFormat } from '../core/cacheFormat.js';
import { fail, shapeText } from '../core/errors.js';
import { TokenEmbedding } from '../layers/embedding.js';
import { linear } from '../layers/linear.js';
import { RMSNorm } from '../layers/rmsNorm.js';
import { plus } from '../layers/rowwise.js';
import { readJson, readWeights } from './checkpoint.js';
import type { CheckpointFiles } from './checkpoint.js';
import { readConfig, writeConfig } from './config.js';
import type { DeepseekConfig } from './config.js';
import { DecoderLayer, attendAndFill, attendInFull, attendToCache, variableOf } from './decoderLayer.js';
import type { Attend, Residual } from './decoderLayer.js';
import { parameter, restoreParameters, storeParameters } from './parameters.js';
import type { ModelParameter } from './parameters.js';
import { writeSafetensors } from './safetensors.js';
import type { StoredTensor } from './safetensors.js';

export interface DeepseekModelOptions {
  /** Makes the initial weights repeatable. null = zeros, for weights that are loaded next. Default 1. */
  seed?: number | null;
}

/**
 * A dense DeepSeek-V3 decoder: token embedding, layers of MLA and SwiGLU behind RMSNorms, a head that may be tied to
 * the embedding. Weights normal with deviation initializerRange, gains 1.
 *
 * Ids are int32 [b, s]. Throws on ids of another rank or dtype; an id outside the vocabulary is not checked.
 *
 * Source: DeepSeek-V2, arXiv:2405.04434, section 2; names and order as in Hugging Face's DeepseekV3ForCausalLM.
 */
export class DeepseekModel {
  readonly layers: DecoderLayer[];
  /** Every weight under Hugging Face's name. */
  readonly parameters: ModelParameter[];
  private readonly embedding: TokenEmbedding;
  private readonly norm: RMSNorm;
  private readonly head: Variable | undefined;

  constructor(
    readonly config: DeepseekConfig,
    { seed = 1 }: DeepseekModelOptions = {},
  ) {
    const { vocabSize, hiddenSize, initializerRange, numHiddenLayers, tieWordEmbeddings } = config;
    // far enough apart that no two layers share a seed
    const seedOf = (index: number): number | undefined =>
      seed === null ? undefined : seed * 10007 + 2 * index;
    this.embedding = new TokenEmbedding({ vocabSize, hiddenSize, initializerRange, seed: seedOf(0) });
    this.layers = Array.from(
      { length: numHiddenLayers },
      (_, i) => new DecoderLayer(config, i, seedOf(i + 1)),
    );
    this.norm = new RMSNorm({ rmsNormEps: config.rmsNormEps });
    this.embedding.setFastWeightInitDuringBuild(seed === null);
    this.embedding.build([null, null]);
    this.norm.build([null, null, hiddenSize]);
    const headSeed = seedOf(numHiddenLayers + 1);
    const headShape: [number, number] = [vocabSize, hiddenSize];
    this.head = tieWordEmbeddings ? undefined : headVariable(headShape, initializerRange, headSeed);
    this.parameters = [
      parameter('model.embed_tokens.weight', [variableOf(this.embedding.table)]),
      ...this.layers.flatMap((layer) => layer.parameters),
      parameter('model.norm.weight', [variableOf(this.norm.gain)]),
      ...(this.head ? [parameter('lm_head.weight', [this.head])] : []),
    ];
  }

  /** What training updates. */
  get variables(): Variable[] {
    return this.parameters.flatMap(({ parts }) => parts);
  }

  get parameterCount(): number {
    return this.variables.reduce((sum, { size }) => sum + size, 0);
  }

  /** ids [b, s] → logits [b, s, vocabulary], every position seeing those up to itself. Differentiable. */
  logits(ids: Tensor2D): Tensor3D {
    return tidy(() => {
      const [b, s] = checkIds(ids).shape;
      const rope = this.rope.at([0], s);
      return this.headOf(
        this.run(ids, () => attendInFull(rope)),
        [b, s],
      ) as Tensor3D;
    });
  }

  /** Hidden states [b, s, hidden] after the embedding, after each layer, the last one after the final norm. */
  hiddenStates(ids: Tensor2D): Tensor3D[] {
    return tidy(() => {
      const [b, s] = checkIds(ids).shape;
      const rope = this.rope.at([0], s);
      let residual: Residual = { x: this.embed(ids) };
      const states = this.layers.map((layer) => {
        const { x, addend } = residual;
        residual = layer.run(residual, attendInFull(rope));
        return addend ? plus(x, addend) : x;
      });
      states.push(this.normed(residual));
      return states.map((rows) => reshape(rows, [b, s, this.config.hiddenSize]));
    });
  }

  /** An empty cache for each layer. They are the caller's to dispose. */
  createCaches(batch: number, capacity: number, storage?: CacheFormat): LatentCache[] {
    const { kvLoraRank: latentRank, qkRopeHeadDim: ropeDim } = this.config;
    return this.layers.map(() => new LatentCache({ batch, capacity, latentRank, ropeDim, storage }));
  }

  /**
   * The prompt [b, s] into empty caches, by the full form: logits [b, vocabulary] of each entry's last token.
   * `counts`: how many tokens of each entry are real, for prompts padded on the right.
   */
  prefill(ids: Tensor2D, caches: LatentCache[], counts?: readonly number[]): Tensor2D {
    return tidy(() => {
      const [b, s] = checkIds(ids).shape;
      const rope = this.rope.at([0], s);
      const hidden = this.run(ids, (i) => attendAndFill(caches[i], rope, counts));
      const last = (counts ?? Array.from({ length: b }, () => s)).map((count, entry) =>
        slice(hidden, [entry * s + count - 1, 0], [1, -1]),
      );
      return this.headOf(concat(last, 0), [b]) as Tensor2D;
    });
  }

  /** The next tokens [b, n] over filled caches, by the absorbed form: logits [b, n, vocabulary]. */
  step(ids: Tensor2D, caches: LatentCache[]): Tensor3D {
    return tidy(() => {
      const [b, n] = checkIds(ids).shape;
      const rope = this.rope.at(caches[0].lengths, n);
      return this.headOf(
        this.run(ids, (i) => attendToCache(caches[i], rope)),
        [b, n],
      ) as Tensor3D;
    });
  }

  /** Bytes of float32 keys and values per head, as multi-head attention would cache them, for the same rows. */
  perHeadCacheBytes(batch: number, capacity: number): number {
    const { numAttentionHeads: h, qkNopeHeadDim, qkRopeHeadDim, vHeadDim } = this.config;
    return 4 * batch * capacity * this.layers.length * h * (qkNopeHeadDim + qkRopeHeadDim + vHeadDim);
  }

  /** config.json and model.safetensors (float32), as Hugging Face's from_pretrained reads them. */
  async save(): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
    const config = new TextEncoder().encode(`${JSON.stringify(writeConfig(this.config), null, 2)}\n`);
    const weights = writeSafetensors(await storeParameters(this.parameters));
    return new Map([
      ['config.json', config],
      ['model.safetensors', weights],
    ]);
  }

  /** Weights by Hugging Face's names. Throws, and changes nothing, if one is missing, misshapen or unknown. */
  restore(weights: ReadonlyMap<string, StoredTensor>): void {
    const known = new Set(this.parameters.map(({ name }) => name));
    const unknown = [...weights.keys()].filter((name) => !known.has(name) && !this.isExtra(name));
    if (unknown.length)
      fail('checkpoint', `has tensors that config.json does not account for: ${unknown.join(', ')}`);
    restoreParameters(this.parameters, weights);
  }

  dispose(): void {
    dispose(this.variables);
    for (const { attention } of this.layers) attention.rope.dispose();
  }

  /** One table of positions serves all layers. */
  private get rope(): DecoderLayer['attention']['rope'] {
    return this.layers[0].attention.rope;
  }

  /** ids [b, s] → the last hidden states as rows [b·s, hidden]. */
  private run(ids: Tensor2D, attendOf: (layer: number) => Attend): Tensor2D {
    let residual: Residual = { x: this.embed(ids) };
    for (const layer of this.layers) residual = layer.run(residual, attendOf(layer.index));
    return this.normed(residual);
  }

  private normed({ x, addend }: Residual): Tensor2D {
    return this.norm.call(addend ? [x, addend] : x) as Tensor2D;
  }

  private embed(ids: Tensor2D): Tensor2D {
    return this.embedding.call(reshape(ids, [ids.size])) as Tensor2D;
  }

  /** Logits of rows, [...places, vocabulary]. */
  private headOf(rows: Tensor2D, places: number[]): Tensor {
    const weight = this.head ?? variableOf(this.embedding.table);
    return linear(rows, { weight, shape: [...places, this.config.vocabSize] });
  }

  /** Tensors that Hugging Face's loader passes over too. */
  private isExtra(name: string): boolean {
    const isPredictionLayer = name.startsWith(`model.layers.${this.layers.length}.`);
    const isTiedHead = name === 'lm_head.weight' && this.config.tieWordEmbeddings;
    return isPredictionLayer || isTiedHead || name.endsWith('rotary_emb.inv_freq');
  }
}

/** A model out of a Hugging Face checkpoint folder: config.json and *.safetensors. */
export async function loadDeepseek(files: CheckpointFiles): Promise<DeepseekModel> {
  const config = readConfig(await readJson(files, 'config.json'));
  const weights = await readWeights(files);
  const model = new DeepseekModel(config, { seed: null });
  try {
    model.restore(weights);
  } catch (error) {
    model.dispose();
    throw error;
  }
  return model;
}

function headVariable(shape: [number, number], deviation: number, seed: number | undefined): Variable {
  return tidy(() =>
    variable(seed === undefined ? zeros(shape) : randomNormal(shape, 0, deviation, 'float32', seed + 1)),
  );
}

function checkIds(ids: Tensor2D): Tensor2D {
  if (ids.rank !== 2 || ids.dtype !== 'int32') {
    fail('DeepseekModel', `ids must be int32 [b, s], got ${ids.dtype} ${shapeText(ids.shape)}`);
  }
  return ids;
}
