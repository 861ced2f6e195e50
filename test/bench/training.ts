/** The whole training step of the main job: ours, of tfjs's own ops, and PyTorch's, each in a process of its own. */
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
import { isOnTensorflowGpu } from './memory.js';
import { askAll, PeerProgram } from './peers.js';
import type { PeerRequest, PeerResult } from './peers.js';

/** How trainingProcess.ts computes. */
export interface OwnTraining extends BackendOptions {
  peer: string;
  precision: Precision;
  /** tfjs's own ops in the place of all of ours */
  isComposed: boolean;
  /** a few steps, for the memory that they take */
  isForMemory: boolean;
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
  own: Omit<OwnTraining, 'peer' | 'isComposed' | 'isForMemory'>,
  bench: Bench,
): Promise<TrainingLine> {
  const { model, training } = presets[preset];
  const config = { ...model, maxPositionEmbeddings: Math.max(model.maxPositionEmbeddings, sequence) };
  const rows = batch ?? Math.max(1, Math.round((training.batch * training.sequence) / sequence));
  const settings = { ...training, batch: rows, sequence };
  const request = { op: 'training', isSoftware: bench.isSoftware, config, settings } as const;
  const ours = await askOwn({ ...own, peer: 'ours', isComposed: false }, request);
  const skipped = composedTooLarge(config, settings);
  const peers: PeerResult[] = [];
  if (bench.hasTfjs) {
    const peer = tfjsPeer;
    peers.push(skipped ? { peer, skipped } : await askOwn({ ...own, peer, isComposed: true }, request));
  }
  // PyTorch alone can train
  const programs = bench.programs.filter(({ name }) => name === 'torch');
  for (const program of programs) tellProgress(program.name);
  peers.push(...(await askAll(programs, request))('training step'));
  const name = `${preset} B${rows} S${sequence}`;
  return { name, lane: trainingLane(config, settings), tokens: rows * sequence, ours, peers };
}

/**
 * TensorFlow's own pool on a GPU grows in powers of two: what the steps need of it is seen in another process, whose tensors
 * come from CUDA's pool. That grows by what is needed, and is slower.
 */
async function askOwn(own: Omit<OwnTraining, 'isForMemory'>, request: PeerRequest): Promise<PeerResult> {
  const ask = async (isForMemory: boolean, environment?: NodeJS.ProcessEnv): Promise<PeerResult> => {
    tellProgress(isForMemory ? `${own.peer}, memory` : own.peer);
    const script = fileURLToPath(new URL('trainingProcess.ts', import.meta.url));
    const args = [...process.execArgv, script, JSON.stringify({ ...own, isForMemory })];
    const results = await askAll([new PeerProgram(own.peer, process.execPath, args, environment)], request);
    return results('training step')[0];
  };
  const figure = await ask(false);
  if ('skipped' in figure || !isOnTensorflowGpu()) return figure;
  const memory = await ask(true, { ...process.env, TF_GPU_ALLOCATOR: 'cuda_malloc_async' });
  return { ...figure, peakBytes: 'skipped' in memory ? undefined : memory.peakBytes };
}

function tellProgress(name: string): void {
  process.stderr.write(`  ${name} …\n`);
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
