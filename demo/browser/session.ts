/** The worker's work: one model with its training, and everything that can be done with it, one thing at a time. */
import { warmup } from '../../src/index.js';
import { DeepseekModel, generate, writeConfig } from '../../src/models.js';
import type { DeepseekConfig, GenerateReport, Generation } from '../../src/models.js';
import { unigramEntropy } from '../shared/corpus.js';
import type { Corpus } from '../shared/corpus.js';
import { presets } from '../shared/presets.js';
import type { PresetName } from '../shared/presets.js';
import { encodeText, streamText } from '../shared/text.js';
import { loadTraining, saveTraining } from '../shared/trainingCheckpoint.js';
import { Trainer } from '../shared/trainer.js';
import type { TrainingSettings } from '../shared/trainer.js';
import { plansOf, trainingCall } from './attentionCalls.js';
import { memoryUse } from './backend.js';
import { getCheckpoint, putCheckpoint } from './checkpointStore.js';
import { kernelCosts } from './kernelCosts.js';
import type { Activity, CheckpointMap, Command, GenerationRequest, Report, RunChoice } from './messages.js';
import { Turns, hearMessages } from './turns.js';

type StartCommand = Extract<Command, { kind: 'start' }>;

/** A sample ends at so many bytes, or, once it has a few, after so long: it is not to hold up the training. */
const sampleLength = 120;
const shortestSample = 24;
const sampleMs = 4000;

export interface SessionOptions {
  corpus: Corpus;
  /** Of weights and batches. */
  seed: number;
  /** How many windows of the text kept aside are scored at a time. */
  heldOutWindows: number;
  tell: (report: Report) => void;
}

export class Session {
  private readonly turns = new Turns();
  private readonly entropy: number;
  private activity: Activity = 'starting';
  private trainer: Trainer | undefined;
  private isTraining = false;
  private generation: AbortController | undefined;

  constructor(private readonly options: SessionOptions) {
    this.entropy = unigramEntropy(options.corpus.train);
  }

  /** A model with random weights in place of the one before. */
  async newRun({ preset, ...settings }: RunChoice): Promise<void> {
    await this.turn('compiling', async () => {
      const { model, training } = presets[preset];
      const { corpus, seed } = this.options;
      const warmupSteps = Math.ceil(settings.totalSteps / 20);
      const all = { ...training, ...settings, warmupSteps, seed };
      await this.adopt(createTrainer(new DeepseekModel(model, { seed }), corpus, all));
    });
  }

  /** Trains to the last step, or until pause(); what else is asked for meanwhile goes between two steps. */
  async train({ totalSteps, sampleEvery, samplePrompt }: StartCommand): Promise<void> {
    if (this.isTraining) return;
    const { trainer } = this;
    if (!trainer) return;
    trainer.settings = { ...trainer.settings, totalSteps };
    this.isTraining = true;
    try {
      if (trainer.step === 0) await this.turn('training', () => this.scoreHeldOut(trainer));
      while (this.isTraining && !trainer.isDone) {
        await this.turn('training', () => this.step(trainer));
        const isDue = trainer.isDone || (sampleEvery > 0 && trainer.step % sampleEvery === 0);
        if (isDue) await this.turn('training', () => this.scoreHeldOut(trainer));
        if (isDue && sampleEvery > 0) await this.turn('sampling', () => this.sample(trainer, samplePrompt));
        await hearMessages();
      }
    } finally {
      this.isTraining = false;
      this.tellActivity(this.activity === 'training' ? 'idle' : this.activity);
    }
  }

  pause(): void {
    this.isTraining = false;
  }

  /** The checkpoint into the browser's storage. */
  async save(): Promise<void> {
    await this.turn('saving', async () => {
      const trainer = this.running();
      const note = await putCheckpoint(trainer.step, await saveTraining(trainer));
      this.options.tell({ kind: 'saved', note });
    });
  }

  /** The checkpoint to the page. */
  async download(): Promise<void> {
    await this.turn('saving', async () => {
      const trainer = this.running();
      this.options.tell({ kind: 'checkpoint', step: trainer.step, files: await saveTraining(trainer) });
    });
  }

  /** Goes on from what was saved in the browser. */
  async restore(): Promise<void> {
    await this.load(await getCheckpoint());
  }

  /** Goes on from these files. The run before stays if they are bad. */
  async load(files: CheckpointMap): Promise<void> {
    await this.turn('restoring', async () => {
      const read = async (name: string): Promise<ArrayBuffer | undefined> => bufferOf(files.get(name));
      const loaded = await loadTraining({ read }, this.options.corpus);
      await this.adopt(loaded);
    });
  }

  /** Continues a prompt, piece by piece, until its end or stop(). */
  async generate({ prompt, ...options }: GenerationRequest): Promise<void> {
    const { tell } = this.options;
    let report: GenerateReport | undefined;
    try {
      await this.turn('generating', async () => {
        this.generation = new AbortController();
        const { signal } = this.generation;
        const generation = generate(this.running().model, encodeText(prompt), { ...options, signal });
        report = generation.report;
        for await (const text of pieces(generation)) tell({ kind: 'piece', text, report: { ...report } });
      });
    } finally {
      this.generation = undefined;
      tell({ kind: 'generated', report: report && { ...report } });
    }
  }

  stop(): void {
    this.generation?.abort();
  }

  /** Times every kernel of one training step, which counts as a step, and of a short generation. */
  async measure(): Promise<void> {
    await this.turn('measuring', async () => {
      const trainer = this.running();
      const training = await kernelCosts(() => this.step(trainer, true));
      const generation = await kernelCosts(async () => {
        const tokens = generate(trainer.model, encodeText('We '), { maxNewTokens: 2, temperature: 0 });
        for await (const token of tokens) void token;
      });
      this.options.tell({ kind: 'measured', measurement: { training, generation } });
    });
  }

  tellActivity(activity: Activity): void {
    this.activity = activity;
    this.options.tell({ kind: 'activity', activity, isTraining: this.isTraining });
  }

  private async turn(activity: Activity, job: () => Promise<void>): Promise<void> {
    await this.turns.take(async () => {
      if (this.activity !== activity) this.tellActivity(activity);
      try {
        await job();
      } finally {
        // between two steps of training nothing is told
        if (!this.isTraining || activity !== 'training')
          this.tellActivity(this.isTraining ? 'training' : 'idle');
      }
    });
  }

  private async step(trainer: Trainer, isForced = false): Promise<void> {
    // paused while another job had its turn
    if (!this.isTraining && !isForced) return;
    const report = await trainer.train();
    this.options.tell({ kind: 'step', report, memory: memoryUse() });
  }

  /** A few words of the model as it is now. */
  private async sample(trainer: Trainer, prompt: string): Promise<void> {
    const options = { maxNewTokens: sampleLength, temperature: 0.8, topK: 40, seed: trainer.step };
    this.generation = new AbortController();
    const { signal } = this.generation;
    const end = performance.now() + sampleMs;
    let text = '';
    const generation = generate(trainer.model, encodeText(prompt), { ...options, signal });
    for await (const piece of pieces(generation)) {
      text += piece;
      const isLate = performance.now() > end && text.length >= shortestSample;
      if (!this.isTraining || isLate) this.stop();
    }
    this.options.tell({ kind: 'sample', step: trainer.step, prompt, text });
  }

  private async scoreHeldOut(trainer: Trainer): Promise<void> {
    const bitsPerByte = await trainer.heldOutBitsPerByte(this.options.heldOutWindows);
    this.options.tell({ kind: 'held out', score: { step: trainer.step, bitsPerByte } });
  }

  /** Puts another run in place of the present one, which stays if a kernel does not compile. */
  private async adopt(trainer: Trainer): Promise<void> {
    await this.compile(trainer).catch((error: unknown) => {
      disposeRun(trainer);
      throw error;
    });
    if (this.trainer) disposeRun(this.trainer);
    this.trainer = trainer;
    const { model, settings, losses, heldOut } = trainer;
    const plans = plansOf(model.config, settings);
    const { parameterCount } = model;
    const preset = presetOf(model.config);
    const run = { preset, settings, parameterCount, losses, heldOut, unigramEntropy: this.entropy, plans };
    this.options.tell({ kind: 'run', run });
  }

  private async compile({ model, settings }: Trainer): Promise<void> {
    const text = 'Compiling the attention kernels';
    await warmup([trainingCall(model.config, settings)], (done, total) =>
      this.options.tell({ kind: 'progress', text, done, total }),
    );
  }

  private running(): Trainer {
    if (!this.trainer) throw new Error('there is no model: start a new run');
    return this.trainer;
  }
}

/** Keeps no model whose settings are bad. */
function createTrainer(model: DeepseekModel, corpus: Corpus, settings: TrainingSettings): Trainer {
  try {
    return new Trainer(model, corpus, settings);
  } catch (error) {
    model.dispose();
    throw error;
  }
}

function disposeRun(trainer: Trainer): void {
  trainer.dispose();
  trainer.model.dispose();
}

/** A generation's text; between two tokens the worker hears whether to stop. */
async function* pieces(generation: Generation): AsyncGenerator<string, void> {
  for await (const piece of streamText(generation)) {
    yield piece;
    await hearMessages();
  }
}

/** A checkpoint does not name its preset. */
function presetOf(config: DeepseekConfig): PresetName | undefined {
  const textOf = (of: DeepseekConfig): string => JSON.stringify(writeConfig(of));
  const names = Object.keys(presets) as PresetName[];
  return names.find((name) => textOf(presets[name].model) === textOf(config));
}

function bufferOf(bytes: Uint8Array<ArrayBuffer> | undefined): ArrayBuffer | undefined {
  return bytes?.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}
