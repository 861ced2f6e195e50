import { fail } from '../core/errors.js';
import { createRandom } from './random.js';

export interface SamplingOptions {
  /** 0 (default) takes the likeliest token; 1 draws from the model's own distribution. */
  temperature?: number;
  /** Draw from the likeliest k tokens only. Default: all. */
  topK?: number;
  /** Makes the draws repeatable. Default 1. */
  seed?: number;
}

/** A function from logits [vocabulary] to a token; of equal logits the lower token is taken. */
export function createSampler({
  temperature = 0,
  topK,
  seed = 1,
}: SamplingOptions): (logits: Float32Array) => number {
  if (!(temperature >= 0 && Number.isFinite(temperature))) {
    fail('generate', `temperature must be a number from 0, got ${String(temperature)}`);
  }
  if (topK !== undefined && (!Number.isInteger(topK) || topK < 1)) {
    fail('generate', `topK must be a positive integer, got ${String(topK)}`);
  }
  const random = createRandom(seed);
  return (logits) => {
    if (temperature === 0) return likeliest(logits);
    return draw(logits, temperature, topK ?? logits.length, random());
  };
}

function likeliest(logits: Float32Array): number {
  let best = 0;
  for (let token = 1; token < logits.length; token++) if (logits[token] > logits[best]) best = token;
  return best;
}

function draw(logits: Float32Array, temperature: number, topK: number, random: number): number {
  const tokens = Array.from(logits.keys())
    .sort((a, b) => logits[b] - logits[a])
    .slice(0, topK);
  const weights = tokens.map((token) => Math.exp((logits[token] - logits[tokens[0]]) / temperature));
  let rest = random * weights.reduce((sum, weight) => sum + weight, 0);
  const chosen = weights.findIndex((weight) => (rest -= weight) < 0);
  // rounding may leave a crumb behind the last weight
  return tokens[chosen === -1 ? 0 : chosen];
}
