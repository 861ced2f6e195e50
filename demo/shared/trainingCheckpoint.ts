import { dispose } from '@tensorflow/tfjs-core';
import type { Variable } from '@tensorflow/tfjs-core';
import {
  loadDeepseek,
  readJson,
  readSafetensors,
  restoreParameters,
  storeParameters,
  writeSafetensors,
} from '../../src/models.js';
import type { CheckpointFiles, ModelParameter, Moments, StoredTensor } from '../../src/models.js';
import { fingerprint } from './corpus.js';
import type { Corpus } from './corpus.js';
import { Trainer } from './trainer.js';
import type { HeldOutScore, TrainingSettings } from './trainer.js';

/*
 * A training run in files: the model as Hugging Face has it (config.json, model.safetensors), Adam's moments under the
 * parameters' names (optimizer.safetensors), and everything else (trainer.json). A batch follows from seed and step,
 * so a restored run goes on exactly as the saved one would have.
 */

const format = 'tfjs-mla training 1';
const optimizerName = 'optimizer.safetensors';
const trainerName = 'trainer.json';

interface TrainerState {
  format: string;
  corpus: string;
  settings: TrainingSettings;
  losses: number[];
  heldOut: HeldOutScore[];
}

/** Every file of the checkpoint, by name. */
export async function saveTraining(trainer: Trainer): Promise<Map<string, Uint8Array<ArrayBuffer>>> {
  const { settings, losses, heldOut } = trainer;
  const state: TrainerState = { format, corpus: fingerprint(trainer.corpus), settings, losses, heldOut };
  const optimizer = new Map<string, StoredTensor>();
  const moments = trainer.optimizer.moments();
  try {
    for (const { variablesOf, nameOf } of byParameter(moments)) {
      const stored = await storeParameters(trainer.model.parameters, variablesOf, nameOf);
      for (const [name, tensor] of stored) optimizer.set(name, tensor);
    }
  } finally {
    disposeMoments(moments);
  }
  return new Map([
    ...(await trainer.model.save()),
    [optimizerName, writeSafetensors(optimizer)],
    [trainerName, new TextEncoder().encode(JSON.stringify(state))],
  ]);
}

/** A trainer that goes on where the saved one stood. Throws, and leaves nothing behind, if a file is bad. */
export async function loadTraining(files: CheckpointFiles, corpus: Corpus): Promise<Trainer> {
  const { settings, losses, heldOut } = checkState(await readJson(files, trainerName), corpus);
  const file = await files.read(optimizerName);
  if (!file) throw new Error(`checkpoint: ${optimizerName} is missing`);
  const saved = readSafetensors(file, optimizerName).tensors;
  const model = await loadDeepseek(files);
  let trainer: Trainer | undefined;
  try {
    trainer = new Trainer(model, corpus, settings);
    restoreMoments(trainer, saved);
  } catch (error) {
    trainer?.dispose();
    model.dispose();
    throw error;
  }
  trainer.losses.push(...losses);
  trainer.heldOut.push(...heldOut);
  trainer.optimizer.updates = losses.length;
  return trainer;
}

function restoreMoments(trainer: Trainer, saved: ReadonlyMap<string, StoredTensor>): void {
  const moments = trainer.optimizer.moments();
  try {
    for (const { variablesOf, nameOf } of byParameter(moments)) {
      restoreParameters(trainer.model.parameters, saved, variablesOf, nameOf);
    }
    trainer.optimizer.setMoments(moments);
  } finally {
    disposeMoments(moments);
  }
}

interface ParameterMoments {
  variablesOf: (parameter: ModelParameter) => Variable[];
  nameOf: (parameter: ModelParameter) => string;
}

function byParameter(moments: Moments): ParameterMoments[] {
  return Object.entries(moments).map(([moment, ofVariable]) => ({
    variablesOf: ({ parts }) => parts.flatMap((part) => ofVariable.get(part) ?? []),
    nameOf: ({ name }) => `${moment}.${name}`,
  }));
}

function disposeMoments(moments: Moments): void {
  for (const ofVariable of Object.values(moments)) dispose([...ofVariable.values()]);
}

const settingNames: readonly (keyof TrainingSettings)[] = [
  'batch',
  'sequence',
  'learningRate',
  'warmupSteps',
  'totalSteps',
  'clipNorm',
  'seed',
];

function checkState(json: Record<string, unknown>, corpus: Corpus): TrainerState {
  const state = json as Partial<Record<keyof TrainerState, unknown>>;
  if (state.format !== format) {
    throw new Error(`${trainerName}: format must be '${format}', got ${JSON.stringify(state.format)}`);
  }
  const settings = (state.settings ?? {}) as Record<string, unknown>;
  const missing = settingNames.filter((name) => typeof settings[name] !== 'number');
  const { losses, heldOut } = state;
  const isComplete = missing.length === 0 && Array.isArray(losses) && Array.isArray(heldOut);
  if (!isComplete || !losses.every(Number.isFinite)) {
    throw new Error(`${trainerName}: corrupt: settings, losses or heldOut are incomplete`);
  }
  if (state.corpus !== fingerprint(corpus)) {
    throw new Error(
      `${trainerName}: the run was trained on another corpus: ${String(state.corpus)}, this is ${fingerprint(corpus)}`,
    );
  }
  return json as unknown as TrainerState;
}
