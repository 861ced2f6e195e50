/** The main job, npm start: trains a small decoder on real text, then generates with it. --help tells the rest. */
import type { DeepseekModel, Generation } from '../../src/models.js';
import type { Trainer } from '../shared/trainer.js';
import type { ChosenBackend } from './backend.js';
import { readOptions } from './options.js';
import type { RunFolder } from './runFolder.js';

/** After how much of its time, and at least how many steps, --minutes knows the pace. */
const pacing = { part: 0.05, steps: 6 };

const options = readOptions(process.argv);
// all else is loaded when it is needed: --help answers at once, and Dawn starts before tfjs looks for it
const [{ bytesText, duration, Progress }, { unigramEntropy }, { encodeText, decodeText, streamText }] =
  await Promise.all([import('./progress.js'), import('../shared/corpus.js'), import('../shared/text.js')]);

try {
  await main();
  process.exit();
} catch (error) {
  console.error(`\nerror: ${(error as Error).message}`);
  process.exit(1);
}

async function main(): Promise<void> {
  const { chooseBackend } = await import('./backend.js');
  const backend = await chooseBackend(options.backend);
  const { openRun } = await import('./setUp.js');
  const { trainer, folder } = await openRun(options);
  await introduce(trainer, backend, folder);

  const { signal } = stopOnCtrlC();
  await train(trainer, folder, signal);
  if (!signal.aborted) await showResults(trainer, folder, signal);
  if (!trainer.isDone) console.log(`\nstopped and saved; go on with:  npm start -- --resume ${folder.path}`);
  trainer.dispose();
  trainer.model.dispose();
}

/** What will run where. */
async function introduce(
  { model, corpus, settings, step }: Trainer,
  backend: ChosenBackend,
  folder: RunFolder,
): Promise<void> {
  const { explain } = await import('../../src/index.js');
  const { batch: b, sequence: s, totalSteps } = settings;
  const {
    numHiddenLayers,
    numAttentionHeads: h,
    qkNopeHeadDim: dn,
    qkRopeHeadDim: dr,
    vHeadDim: dv,
    kvLoraRank,
  } = model.config;
  const plan = explain(
    'mlaAttention',
    { q: [b, s, h, dn + dr], k: [b, s, h, dn], v: [b, s, h, dv], kRope: [b, s, dr] },
    { causal: true },
  );
  console.log(`backend   ${backend.name} (${backend.device})`);
  for (const reason of backend.passedOver) console.log(`          not ${reason}`);
  console.log(`attention ${plan.kernel} on ${plan.backend}, ${plan.lane}, ${plan.computePrecision}`);
  console.log(
    `model     ${model.parameterCount.toLocaleString('en')} parameters: ${numHiddenLayers} layers, ${h} heads of ${dn}+${dr}/${dv}, latent ${kvLoraRank}`,
  );
  console.log(
    `text      ${bytesText(corpus.train.length)} to train on, ${bytesText(corpus.heldOut.length)} held out`,
  );
  console.log(`training  ${step ? `from step ${step} ` : ''}to step ${totalSteps}, ${b} x ${s} bytes a step`);
  console.log(`run       ${folder.path}\n`);
}

/** Trains to the last step, or until Ctrl-C, saving every now and then. */
async function train(trainer: Trainer, folder: RunFolder, signal: AbortSignal): Promise<void> {
  const { fitToTime } = await import('./setUp.js');
  const start = performance.now();
  const firstStep = trainer.step;
  const stepSeconds: number[] = [];
  let isPaceKnown = options.minutes === undefined;
  let lastSave = start;
  let progress = new Progress(trainer);
  while (!trainer.isDone && !signal.aborted) {
    const stepStart = performance.now();
    progress.show(await trainer.train());
    stepSeconds.push((performance.now() - stepStart) / 1000);
    const secondsLeft = 60 * (options.minutes ?? 0) - (performance.now() - start) / 1000;
    const isPaced =
      stepSeconds.length >= pacing.steps && secondsLeft < (1 - pacing.part) * 60 * (options.minutes ?? 0);
    if (!isPaceKnown && isPaced) {
      isPaceKnown = true;
      progress.stop();
      fitToTime(trainer, secondsLeft, stepSeconds);
      progress = new Progress(trainer);
    }
    if (performance.now() - lastSave > options.saveEvery * 1000) {
      await trainer.heldOutBitsPerByte(32);
      await save(trainer, folder);
      await appendSample(trainer, folder);
      lastSave = performance.now();
    }
    await nextEvents();
  }
  progress.stop();
  const seconds = (performance.now() - start) / 1000;
  console.log(`\ntrained   ${trainer.step - firstStep} steps in ${duration(seconds)}`);
  if (trainer.step > firstStep && trainer.isDone) await trainer.heldOutBitsPerByte(128);
  await save(trainer, folder);
}

/** The checkpoint, as a whole or not at all, and the loss curve. */
async function save(trainer: Trainer, folder: RunFolder): Promise<void> {
  const { saveTraining } = await import('../shared/trainingCheckpoint.js');
  const { lossChartSvg } = await import('../shared/lossChart.js');
  const { model, losses, heldOut, corpus } = trainer;
  const title = `${model.parameterCount.toLocaleString('en')} parameters`;
  await folder.save(trainer.step, await saveTraining(trainer));
  await folder.write(
    'loss.svg',
    lossChartSvg({ title, losses, heldOut, unigramEntropy: unigramEntropy(corpus.train) }),
  );
}

/** A few words of the model as it is now. */
async function appendSample({ model, step }: Trainer, folder: RunFolder): Promise<void> {
  const tokens: number[] = [];
  for await (const token of await startGeneration(model, 80)) tokens.push(token);
  await folder.append('samples.txt', `step ${step}: ${options.sample}${decodeText(tokens)}\n\n`);
}

/** Held-out score, and a text through the latent cache with its figures. */
async function showResults(trainer: Trainer, folder: RunFolder, signal: AbortSignal): Promise<void> {
  const { model, heldOut, corpus } = trainer;
  const score = heldOut.at(-1)?.bitsPerByte ?? (await trainer.heldOutBitsPerByte(128));
  console.log(
    `held out  ${score.toFixed(3)} bits per byte (byte frequencies alone: ${unigramEntropy(corpus.train).toFixed(3)})\n`,
  );
  const generation = await startGeneration(model, options.sampleTokens, signal);
  process.stdout.write(options.sample);
  let text = '';
  for await (const piece of streamText(generation)) {
    text += piece;
    process.stdout.write(piece);
    await nextEvents();
  }
  await folder.append('samples.txt', `step ${trainer.step}: ${options.sample}${text}\n\n`);
  const { report } = generation;
  console.log(
    `\n\nprefill   ${report.prefillTokensPerSecond.toFixed(0)} tokens/s (${report.promptTokens} tokens)`,
  );
  console.log(`decode    ${report.decodeTokensPerSecond.toFixed(0)} tokens/s (${report.newTokens} tokens)`);
  const smaller = (report.perHeadCacheBytes / report.cacheBytes).toFixed(1);
  console.log(
    `cache     ${bytesText(report.cacheBytes)} of latents; keys and values per head would take ${bytesText(report.perHeadCacheBytes)}, ${smaller} times more`,
  );
  console.log(`written   ${folder.path}: step-*/, loss.svg, samples.txt`);
}

async function startGeneration(
  model: DeepseekModel,
  maxNewTokens: number,
  signal?: AbortSignal,
): Promise<Generation> {
  const { generate } = await import('../../src/models.js');
  const { temperature, topK, seed } = options;
  return generate(model, encodeText(options.sample), { maxNewTokens, temperature, topK, seed, signal });
}

/** The first Ctrl-C asks for an end after this step; a later one ends at once. */
function stopOnCtrlC(): AbortController {
  const controller = new AbortController();
  let asked = 0;
  const onSignal = (): void => {
    // a launcher may pass on what the terminal has sent already
    if (controller.signal.aborted && performance.now() - asked < 500) return;
    if (controller.signal.aborted) process.exit(130);
    asked = performance.now();
    controller.abort();
  };
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal);
  return controller;
}

/** Lets signals in: on cpu, training and generating never leave the stack for long enough. */
function nextEvents(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
