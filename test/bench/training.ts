import { stateOfTheUnion } from '../../demo/node/stateOfTheUnion.js';
import { makeCorpus } from '../../demo/shared/corpus.js';
import type { Corpus } from '../../demo/shared/corpus.js';
import { presets } from '../../demo/shared/presets.js';
import type { PresetName } from '../../demo/shared/presets.js';
import { Trainer } from '../../demo/shared/trainer.js';
import { explain } from '../../src/index.js';
import { DeepseekModel } from '../../src/models.js';
import type { DeepseekConfig } from '../../src/models.js';
import { kernelsOf, problemOf } from '../../src/ops/explain.js';
import { laneOf } from './bench.js';
import type { Bench } from './bench.js';
import { causalMask, composedFullForm } from './composed.js';
import { median } from './figure.js';
import { forgetPeak, peakBytes } from './memory.js';
import { askAll } from './peers.js';
import type { PeerResult } from './peers.js';

/** The whole training step of the main job. */
export interface StepFigure {
  tokensPerSecond: number;
  stepMs: number;
  /** by memory.ts */
  peakBytes?: number;
  isSlow: boolean;
}

export interface TrainingLine {
  name: string;
  lane: string;
  ours: StepFigure | { skipped: string };
  composed: StepFigure | { skipped: string };
  peers: PeerResult[];
}

/** Both: what compiles does so in the first steps, and plain JavaScript is optimised only after a while. */
const warmUp = { steps: 2, ms: 1000 };
const measuredSteps = 10;

/** What composed attention may take: the rest of a large GPU is for all else. */
const mostComposedBytes = 32 * 2 ** 30;

let corpus: Corpus | undefined;

/** One preset at one length, as many tokens a step as the preset has, with our attention and with composed ops. */
export async function benchTraining(
  preset: PresetName,
  sequence: number,
  bench: Bench,
): Promise<TrainingLine> {
  const { model, training } = presets[preset];
  const config = { ...model, maxPositionEmbeddings: Math.max(model.maxPositionEmbeddings, sequence) };
  const batch = Math.max(1, Math.round((training.batch * training.sequence) / sequence));
  const name = `${preset} B${batch} S${sequence}`;
  const ours = await train(config, { ...training, batch, sequence }, bench, false);
  const skipped = composedTooLarge(config, batch, sequence);
  let composed: TrainingLine['composed'] = { skipped: 'not asked for' };
  if (bench.hasTfjs)
    composed = skipped ? { skipped } : await train(config, { ...training, batch, sequence }, bench, true);
  // PyTorch alone can train
  const programs = bench.programs.filter((program) => program.name === 'torch');
  const settings = { ...training, batch, sequence };
  const results = await askAll(programs, { op: 'training', isSoftware: bench.isSoftware, config, settings });
  const lane = trainingLane(config, batch, sequence);
  return { name, lane, ours, composed, peers: results('training step') };
}

async function train(
  config: DeepseekConfig,
  settings: Trainer['settings'],
  bench: Bench,
  isComposed: boolean,
): Promise<StepFigure | { skipped: string }> {
  corpus ??= makeCorpus(stateOfTheUnion());
  await bench.renewDevice();
  const model = new DeepseekModel(config);
  const trainer = new Trainer(model, corpus, settings);
  const mask = isComposed ? causalMask(settings.sequence, settings.sequence) : undefined;
  if (mask) for (const { attention } of model.layers) attention.fullForm = composedFullForm(mask);
  try {
    for (
      const start = performance.now();
      trainer.step < warmUp.steps || performance.now() - start < warmUp.ms;
    )
      await trainer.train();
    forgetPeak();
    const { value, isSlow } = await bench.clock.steadily(async () => {
      const times: number[] = [];
      for (let step = 0; step < measuredSteps; step++) {
        const start = performance.now();
        await trainer.train();
        times.push(performance.now() - start);
      }
      return median(times);
    });
    const tokensPerSecond = (1000 * settings.batch * settings.sequence) / value;
    return { tokensPerSecond, stepMs: value, peakBytes: peakBytes(), isSlow };
  } catch (error) {
    return { skipped: (error as Error).message.split('\n')[0] };
  } finally {
    mask?.dispose();
    trainer.dispose();
    model.dispose();
  }
}

function trainingLane(config: DeepseekConfig, b: number, s: number): string {
  const { numAttentionHeads: h, qkNopeHeadDim: dn, qkRopeHeadDim: dr, vHeadDim: dv } = config;
  const shapes = { q: [b, s, h, dn + dr], k: [b, s, h, dn], v: [b, s, h, dv], kRope: [b, s, dr] };
  const kernels = kernelsOf(problemOf('bench', { op: 'mlaAttention', shapes }));
  return laneOf(kernels.map((kernel) => explain('mlaAttention', shapes, { causal: true }, kernel)));
}

/** Three tensors of scores are kept a layer (products, scaled products, probabilities), some more are on their way. */
function composedTooLarge(config: DeepseekConfig, b: number, s: number): string | undefined {
  const bytes = 4 * b * config.numAttentionHeads * s * s * (3 * config.numHiddenLayers + 6);
  return bytes > mostComposedBytes ? `would take ${(bytes / 1e9).toFixed(0)} GB` : undefined;
}
