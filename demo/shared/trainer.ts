import { dispose, env, getBackend, stack, tidy, variableGrads } from '@tensorflow/tfjs-core';
import type { Scalar, Tensor, Tensor2D } from '@tensorflow/tfjs-core';
import { crossEntropy } from '../../src/layers.js';
import { Adam } from '../../src/models.js';
import type { DeepseekModel } from '../../src/models.js';
import { evenBatch, trainingBatch } from './batches.js';
import type { Batch } from './batches.js';
import type { Corpus } from './corpus.js';

export interface TrainingSettings {
  batch: number;
  sequence: number;
  /** The greatest learning rate, reached after the warm-up. */
  learningRate: number;
  warmupSteps: number;
  /** Where the cosine decay ends, at a tenth of the learning rate. */
  totalSteps: number;
  /** Gradients are scaled down to this global norm. */
  clipNorm: number;
  /** Of the batches' places in the text. */
  seed: number;
}

export interface StepReport {
  /** Steps done, this one included. */
  step: number;
  /** Mean of the batch before the update, natural logarithm. */
  loss: number;
  /** Before clipping. */
  gradientNorm: number;
  learningRate: number;
  tokensPerSecond: number;
}

export interface HeldOutScore {
  /** After how many steps. */
  step: number;
  bitsPerByte: number;
}

export const adamOptions = { beta1: 0.9, beta2: 0.95, eps: 1e-8 };

/** Trains a model on a corpus, step by step. All that it keeps between steps is model, optimizer and step. */
export class Trainer {
  readonly optimizer: Adam;
  /** The loss of every step so far. */
  readonly losses: number[] = [];
  /** What heldOutBitsPerByte has measured so far. */
  readonly heldOut: HeldOutScore[] = [];

  constructor(
    readonly model: DeepseekModel,
    readonly corpus: Corpus,
    public settings: TrainingSettings,
  ) {
    const { sequence } = settings;
    if (Math.min(corpus.train.length, corpus.heldOut.length) < sequence + 2) {
      throw new Error(
        `Trainer: expected more than sequence=${sequence} bytes of text in both parts, got ${corpus.train.length} and ${corpus.heldOut.length}`,
      );
    }
    if (sequence > model.config.maxPositionEmbeddings) {
      throw new Error(
        `Trainer: sequence=${sequence} exceeds the model's max_position_embeddings=${model.config.maxPositionEmbeddings}`,
      );
    }
    this.optimizer = new Adam(model.variables, adamOptions);
  }

  /** Steps done. */
  get step(): number {
    return this.losses.length;
  }

  get isDone(): boolean {
    return this.step >= this.settings.totalSteps;
  }

  /** One training step. Throws if the loss is not a number; the model is past saving then, its last checkpoint not. */
  async train(): Promise<StepReport> {
    const start = performance.now();
    const { settings, step } = this;
    const batch = trainingBatch(this.corpus.train, settings, settings.seed, step);
    const learningRate = learningRateAt(step, settings);
    const [loss, gradientNorm] = await trainingStep(
      this.model,
      this.optimizer,
      batch,
      learningRate,
      settings.clipNorm,
    );
    if (!Number.isFinite(loss)) throw new Error(`Trainer: the loss of step ${step + 1} is ${loss}`);
    this.losses.push(loss);
    const seconds = (performance.now() - start) / 1000;
    const tokensPerSecond = (settings.batch * settings.sequence) / seconds;
    return { step: step + 1, loss, gradientNorm, learningRate, tokensPerSecond };
  }

  /** Bits per byte on `count` windows spread evenly over the text kept aside. */
  async heldOutBitsPerByte(count = 64): Promise<number> {
    const { heldOut } = this.corpus;
    const { sequence } = this.settings;
    const batch = Math.min(count, this.settings.batch);
    let nats = 0;
    for (let first = 0; first < count; first += batch) {
      const rows = Math.min(batch, count - first);
      const loss = tidy(() => {
        const { inputs, targets } = evenBatch(heldOut, { batch: rows, sequence }, first, count);
        return crossEntropy(this.model.logits(inputs), targets);
      });
      nats += (await loss.data())[0] * (rows / count);
      loss.dispose();
    }
    const bitsPerByte = nats / Math.LN2;
    this.heldOut.push({ step: this.step, bitsPerByte });
    return bitsPerByte;
  }

  /** Frees the optimizer's state; the model is its owner's. */
  dispose(): void {
    this.optimizer.dispose();
  }
}

/** Linear warm-up, then half a cosine down to a tenth. */
export function learningRateAt(
  step: number,
  { learningRate, warmupSteps, totalSteps }: TrainingSettings,
): number {
  if (step < warmupSteps) return (learningRate * (step + 1)) / warmupSteps;
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps));
  return learningRate * (0.1 + 0.45 * (1 + Math.cos(Math.PI * progress)));
}

/** Forward, backward, clipping and update; disposes the batch. Returns [loss, norm of the gradients]. */
export async function trainingStep(
  model: DeepseekModel,
  optimizer: Adam,
  { inputs, targets }: Batch,
  learningRate: number,
  clipNorm: number,
): Promise<Float32Array> {
  let summary: Tensor;
  try {
    summary = withRepeatableProducts(() =>
      tidy(() => {
        const { loss, gradients } = lossAndGradients(model, inputs, targets);
        return stack([loss, optimizer.update(gradients, learningRate, clipNorm)]);
      }),
    );
  } finally {
    dispose([inputs, targets]);
  }
  const values = await summary.data<'float32'>();
  summary.dispose();
  return values;
}

/** Mean cross-entropy of the next byte, and its gradients in the order of model.variables. */
export function lossAndGradients(
  model: DeepseekModel,
  inputs: Tensor2D,
  targets: Tensor2D,
): { loss: Scalar; gradients: Tensor[] } {
  const { variables } = model;
  const { value, grads } = variableGrads(() => crossEntropy(model.logits(inputs), targets), variables);
  return { loss: value, gradients: variables.map(({ name }) => grads[name]) };
}

/**
 * tfjs's webgpu backend computes some matrix products with atomic additions, whose order changes from run to run
 * (its split-K program). Inside, it uses its tiled program for all, so that a resumed run has the very same losses.
 */
function withRepeatableProducts<T>(run: () => T): T {
  const flag = 'WEBGPU_MATMUL_PROGRAM_TYPE';
  const tiled = 3;
  if (getBackend() !== 'webgpu') return run();
  const before = env().getNumber(flag);
  env().set(flag, tiled);
  try {
    return run();
  } finally {
    env().set(flag, before);
  }
}
