/** The whole training step of the main job: ours, with composed attention, and PyTorch's, each in a process of its own. */
import { fileURLToPath } from 'node:url';
import { presets } from '../../demo/shared/presets.js';
import type { PresetName } from '../../demo/shared/presets.js';
import type { Trainer } from '../../demo/shared/trainer.js';
import { explain } from '../../src/index.js';
import type { Precision } from '../../src/index.js';
import type { DeepseekConfig } from '../../src/models.js';
import { kernelsOf, problemOf } from '../../src/ops/explain.js';
import type { BackendOptions } from './backend.js';
import { laneOf, tfjsPeer } from './bench.js';
import type { Bench } from './bench.js';
import { askAll, PeerProgram } from './peers.js';
import type { PeerResult } from './peers.js';

/** How trainingProcess.ts computes. */
export interface OwnTraining extends BackendOptions {
  peer: string;
  precision: Precision;
  /** tfjs's composed ops in the place of our attention */
  isComposed: boolean;
}

export interface TrainingLine {
  name: string;
  lane: string;
  tokens: number;
  ours: PeerResult;
  peers: PeerResult[];
}

/** What composed attention may take: the rest of a large GPU is for all else. */
const mostComposedBytes = 64 * 2 ** 30;

/** One preset at one length, by default with as many tokens a step as the preset has. */
export async function benchTraining(
  preset: PresetName,
  sequence: number,
  batch: number | undefined,
  own: Omit<OwnTraining, 'peer' | 'isComposed'>,
  bench: Bench,
): Promise<TrainingLine> {
  const { model, training } = presets[preset];
  const config = { ...model, maxPositionEmbeddings: Math.max(model.maxPositionEmbeddings, sequence) };
  const rows = batch ?? Math.max(1, Math.round((training.batch * training.sequence) / sequence));
  const settings = { ...training, batch: rows, sequence };
  const request = { op: 'training', isSoftware: bench.isSoftware, config, settings } as const;
  const skipped = composedTooLarge(config, settings);
  // PyTorch alone can train
  const programs = [
    ownProgram({ ...own, peer: 'ours', isComposed: false }),
    ...(bench.hasTfjs && !skipped ? [ownProgram({ ...own, peer: tfjsPeer, isComposed: true })] : []),
    ...bench.programs.filter(({ name }) => name === 'torch'),
  ];
  const results = await askAll(programs, request, ({ name }) => process.stderr.write(`  ${name} …\n`));
  const [ours, ...peers] = results('training step');
  if (bench.hasTfjs && skipped) peers.unshift({ peer: tfjsPeer, skipped });
  const name = `${preset} B${rows} S${sequence}`;
  return { name, lane: trainingLane(config, settings), tokens: rows * sequence, ours, peers };
}

function ownProgram(own: OwnTraining): PeerProgram {
  const script = fileURLToPath(new URL('trainingProcess.ts', import.meta.url));
  return new PeerProgram(own.peer, process.execPath, [...process.execArgv, script, JSON.stringify(own)]);
}

function trainingLane(
  config: DeepseekConfig,
  { batch: b, sequence: s }: Pick<Trainer['settings'], 'batch' | 'sequence'>,
): string {
  const { numAttentionHeads: h, qkNopeHeadDim: dn, qkRopeHeadDim: dr, vHeadDim: dv } = config;
  const shapes = { q: [b, s, h, dn + dr], k: [b, s, h, dn], v: [b, s, h, dv], kRope: [b, s, dr] };
  const kernels = kernelsOf(problemOf('bench', { op: 'mlaAttention', shapes }));
  return laneOf(kernels.map((kernel) => explain('mlaAttention', shapes, { causal: true }, kernel)));
}

/** Three tensors of scores are kept a layer (products, scaled products, probabilities), some more are on their way. */
function composedTooLarge(
  config: DeepseekConfig,
  { batch: b, sequence: s }: Pick<Trainer['settings'], 'batch' | 'sequence'>,
): string | undefined {
  const bytes = 4 * b * config.numAttentionHeads * s * s * (3 * config.numHiddenLayers + 6);
  return bytes > mostComposedBytes ? `would take ${(bytes / 1e9).toFixed(0)} GB` : undefined;
}
