import { DeepseekModel } from '../../src/models.js';
import { makeCorpus } from '../shared/corpus.js';
import type { Corpus } from '../shared/corpus.js';
import { presets } from '../shared/presets.js';
import type { Preset } from '../shared/presets.js';
import { loadTraining } from '../shared/trainingCheckpoint.js';
import { Trainer } from '../shared/trainer.js';
import type { TrainOptions } from './options.js';
import { RunFolder, filesOf } from './runFolder.js';

/** The text of --corpus, or the State of the Union addresses. */
async function readCorpus({ corpus }: TrainOptions): Promise<Corpus> {
  if (corpus === undefined) {
    const { stateOfTheUnion } = await import('./stateOfTheUnion.js');
    return makeCorpus(stateOfTheUnion());
  }
  const { textFiles } = await import('./textFiles.js');
  return makeCorpus(await textFiles(corpus));
}

export interface Run {
  trainer: Trainer;
  folder: RunFolder;
}

/** A new model to train and a folder for it, or the newest checkpoint of the run to go on with. */
export async function openRun(options: TrainOptions): Promise<Run> {
  const corpus = await readCorpus(options);
  if (options.resume !== undefined) {
    const folder = await RunFolder.open(options.resume);
    const trainer = await loadTraining(filesOf(await folder.newest()), corpus);
    if (options.steps !== undefined) trainer.settings = { ...trainer.settings, totalSteps: options.steps };
    return { trainer, folder };
  }
  const { model, training } = withOptions(presets[options.preset], options);
  const trainer = new Trainer(new DeepseekModel(model, { seed: options.seed }), corpus, training);
  // last, so that no folder is left of a run that cannot start
  return { trainer, folder: await RunFolder.create(newRunPath(options)) };
}

/** Where a run goes that was given no folder. */
function newRunPath({ preset, out }: TrainOptions): string {
  const time = new Date().toISOString().slice(0, 19).replace('T', '-').replaceAll(':', '');
  return out ?? `runs/${preset}-${time}`;
}

function withOptions({ model, training, about }: Preset, options: TrainOptions): Preset {
  const totalSteps = options.steps ?? training.totalSteps;
  return {
    about,
    model: {
      ...model,
      hiddenSize: options.hidden ?? model.hiddenSize,
      // the feed-forward part keeps its proportion
      intermediateSize: Math.round(
        (model.intermediateSize / model.hiddenSize) * (options.hidden ?? model.hiddenSize),
      ),
      numHiddenLayers: options.layers ?? model.numHiddenLayers,
      numAttentionHeads: options.heads ?? model.numAttentionHeads,
      maxPositionEmbeddings: Math.max(model.maxPositionEmbeddings, options.sequence ?? 0),
    },
    training: {
      ...training,
      batch: options.batch ?? training.batch,
      sequence: options.sequence ?? training.sequence,
      learningRate: options.lr ?? training.learningRate,
      totalSteps,
      warmupSteps: warmupSteps(totalSteps),
      seed: options.seed,
    },
  };
}

/** Sets the steps so that the time left is used, by the newer half of the steps so far: the first ones compile. */
export function fitToTime(trainer: Trainer, secondsLeft: number, stepSeconds: readonly number[]): void {
  const newer = stepSeconds.slice(Math.floor(stepSeconds.length / 2));
  const pace = newer.reduce((sum, seconds) => sum + seconds, 0) / newer.length;
  const totalSteps = trainer.step + Math.max(0, Math.round(secondsLeft / pace));
  trainer.settings = { ...trainer.settings, totalSteps, warmupSteps: warmupSteps(totalSteps) };
}

function warmupSteps(totalSteps: number): number {
  return Math.ceil(totalSteps / 20);
}
