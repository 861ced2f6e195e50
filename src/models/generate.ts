import { tensor2d, tidy } from '@tensorflow/tfjs-core';
import type { Tensor } from '@tensorflow/tfjs-core';
import type { LatentCache } from '../cache/latentCache.js';
import type { CacheFormat } from '../core/cacheFormat.js';
import { fail } from '../core/errors.js';
import type { DeepseekModel } from './deepseek.js';
import { createSampler } from './sampling.js';
import type { SamplingOptions } from './sampling.js';

export interface GenerateOptions extends SamplingOptions {
  maxNewTokens: number;
  /** Ends the text; it is yielded too. Default: config.json's eos_token_id. */
  endTokens?: readonly number[];
  /** How the layers' latent caches keep their rows: LatentCache's storage. Default 'float32'. */
  cacheStorage?: CacheFormat;
  /** A stop button: generation ends before the next token. */
  signal?: AbortSignal;
}

/** Figures of one generation; they grow while it runs. */
export interface GenerateReport {
  promptTokens: number;
  newTokens: number;
  prefillSeconds: number;
  decodeSeconds: number;
  prefillTokensPerSecond: number;
  /** Tokens by single steps: the first new token comes out of the prefill. */
  decodeTokensPerSecond: number;
  /** Of all layers' latent caches, and of the same rows as keys and values per head. */
  cacheBytes: number;
  perHeadCacheBytes: number;
  stopped: 'running' | 'length' | 'end token' | 'signal';
}

export interface Generation extends AsyncIterable<number> {
  readonly report: GenerateReport;
}

/**
 * Continues a prompt, token by token: `for await (const token of generate(model, prompt, { maxNewTokens: 100 }))`.
 *
 * The prompt goes through the full form at once, every further token through the absorbed form over the layers'
 * latent caches, which are freed at the end, also when the loop is left early. A generation can be run once.
 *
 * Throws on an empty prompt, tokens outside the vocabulary, bad sampling options, and a prompt that with the new
 * tokens is longer than max_position_embeddings.
 */
export function generate(
  model: DeepseekModel,
  prompt: readonly number[],
  options: GenerateOptions,
): Generation {
  const capacity = checkLength(model, prompt, options.maxNewTokens);
  const report: GenerateReport = {
    promptTokens: prompt.length,
    newTokens: 0,
    prefillSeconds: 0,
    decodeSeconds: 0,
    prefillTokensPerSecond: 0,
    decodeTokensPerSecond: 0,
    cacheBytes: 0,
    perHeadCacheBytes: model.perHeadCacheBytes(1, capacity),
    stopped: 'running',
  };
  const sample = createSampler(options);
  return { report, [Symbol.asyncIterator]: () => run(model, prompt, capacity, options, sample, report) };
}

async function* run(
  model: DeepseekModel,
  prompt: readonly number[],
  capacity: number,
  { maxNewTokens, endTokens = endTokensOf(model), cacheStorage, signal }: GenerateOptions,
  sample: (logits: Float32Array) => number,
  report: GenerateReport,
): AsyncGenerator<number, void> {
  const caches = model.createCaches(1, capacity, cacheStorage);
  report.cacheBytes = caches.reduce((sum, { bytes }) => sum + bytes, 0);
  try {
    let input: readonly number[] = prompt;
    while (report.newTokens < maxNewTokens) {
      if (signal?.aborted) {
        report.stopped = 'signal';
        return;
      }
      const token = sample(await nextLogits(model, input, caches, report));
      report.newTokens++;
      yield token;
      if (endTokens.includes(token)) {
        report.stopped = 'end token';
        return;
      }
      input = [token];
    }
    report.stopped = 'length';
  } finally {
    for (const cache of caches) cache.dispose();
  }
}

/** Logits after the input, read back; the time goes into the report. */
async function nextLogits(
  model: DeepseekModel,
  input: readonly number[],
  caches: LatentCache[],
  report: GenerateReport,
): Promise<Float32Array> {
  const isPrompt = report.newTokens === 0;
  const start = performance.now();
  const logits: Tensor = tidy(() => {
    const ids = tensor2d([...input], [1, input.length], 'int32');
    return isPrompt ? model.prefill(ids, caches) : model.step(ids, caches);
  });
  try {
    return await logits.data<'float32'>();
  } finally {
    logits.dispose();
    const seconds = (performance.now() - start) / 1000;
    if (isPrompt) {
      report.prefillSeconds = seconds;
      report.prefillTokensPerSecond = input.length / seconds;
    } else {
      report.decodeSeconds += seconds;
      report.decodeTokensPerSecond = report.newTokens / report.decodeSeconds;
    }
  }
}

function checkLength(model: DeepseekModel, prompt: readonly number[], maxNewTokens: number): number {
  const { vocabSize, maxPositionEmbeddings } = model.config;
  if (prompt.length === 0) fail('generate', 'the prompt is empty');
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 0) {
    fail('generate', `maxNewTokens must be an integer from 0, got ${String(maxNewTokens)}`);
  }
  const stranger = prompt.find((token) => !Number.isInteger(token) || token < 0 || token >= vocabSize);
  if (stranger !== undefined) {
    fail('generate', `the prompt's tokens must be integers from 0 to ${vocabSize - 1}, got ${stranger}`);
  }
  const capacity = prompt.length + maxNewTokens;
  if (capacity > maxPositionEmbeddings) {
    fail(
      'generate',
      `the prompt's ${prompt.length} and ${maxNewTokens} new tokens exceed max_position_embeddings=${maxPositionEmbeddings}`,
    );
  }
  return capacity;
}

function endTokensOf({ config: { eosTokenId } }: DeepseekModel): readonly number[] {
  return eosTokenId === null ? [] : [eosTokenId].flat();
}
