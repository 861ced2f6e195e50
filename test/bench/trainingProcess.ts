/** The training step of the main job in a process of its own, whose peak of memory is the step's; training.ts asks. */
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
// the gradients of composed ops: tfjs-core alone registers none
import '@tensorflow/tfjs-layers';
import { getBackend, unregisterKernel } from '@tensorflow/tfjs-core';
import { stateOfTheUnion } from '../../demo/node/stateOfTheUnion.js';
import { makeCorpus } from '../../demo/shared/corpus.js';
import { Trainer } from '../../demo/shared/trainer.js';
import * as rowKernels from '../../src/core/rowKernels.js';
import { setDefaultPrecision } from '../../src/index.js';
import { DeepseekModel } from '../../src/models.js';
import { chooseBackend } from './backend.js';
import { anyClock, SteadyClock } from './clock.js';
import { causalMask, composedFullForm } from './composed.js';
import { median } from './figure.js';
import { tfjsClock } from './measure.js';
import { measurePeak } from './memory.js';
import type { PeerAnswer, PeerRequest, PeerResult } from './peers.js';
import type { OwnTraining } from './training.js';

interface Span {
  steps: number;
  ms: number;
}

/** At least both: what compiles does so in the first steps, and plain JavaScript is optimised only after a while. */
const warmUp: Span = { steps: 2, ms: 3000 };
const measured: Span = { steps: 10, ms: 2000 };
const forMemory: Span = { steps: 3, ms: 0 };

const own = JSON.parse(process.argv[2]) as OwnTraining;
const request = JSON.parse(process.argv[3]) as Extract<PeerRequest, { op: 'training' }>;
const result = await train().catch((error: Error) => ({ peer: own.peer, skipped: inOneLine(error.message) }));
const answer: PeerAnswer = { versions: {}, results: { 'training step': [result] } };
console.log(JSON.stringify(answer));
process.exit(0);

/** Of TensorFlow's messages the first line is a number. */
function inOneLine(message: string): string {
  return message.replaceAll('\n', ' ').slice(0, 120);
}

async function train(): Promise<PeerResult> {
  const { isSoftware } = await chooseBackend(own);
  setDefaultPrecision(own.precision);
  const clock = new SteadyClock(isSoftware ? anyClock : tfjsClock);
  const peak = measurePeak();
  const trainer = makeTrainer();
  await stepTimes(trainer, own.isForMemory ? forMemory : warmUp);
  const { value, isSlow } = await clock.steadily(() =>
    stepTimes(trainer, own.isForMemory ? forMemory : measured),
  );
  return {
    peer: own.peer,
    wallMs: median(value),
    spreadMs: [Math.min(...value), Math.max(...value)],
    isSlow,
    peakBytes: peak(),
  };
}

/** Milliseconds of each step. */
async function stepTimes(trainer: Trainer, { steps, ms }: Span): Promise<number[]> {
  const times: number[] = [];
  const start = performance.now();
  while (times.length < steps || performance.now() - start < ms) {
    const begin = performance.now();
    await trainer.train();
    times.push(performance.now() - begin);
  }
  return times;
}

function makeTrainer(): Trainer {
  const { config, settings } = request;
  const model = new DeepseekModel(config);
  if (own.isComposed) {
    removeRowKernels();
    const mask = causalMask(settings.sequence, settings.sequence);
    for (const { attention } of model.layers) attention.fullForm = composedFullForm(mask);
  }
  return new Trainer(model, makeCorpus(stateOfTheUnion()), settings);
}

/** tfjs's own ops alone, in the layers too: they compose what they find no kernel for. */
function removeRowKernels(): void {
  for (const name of Object.values(rowKernels)) {
    if (typeof name === 'string' && rowKernels.hasRowKernel(name)) unregisterKernel(name, getBackend());
  }
}
