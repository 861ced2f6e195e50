/** npm run bench: our kernels beside named peers in the same run. Speed is measured here, never in tests. */
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
// the peer's gradients: tfjs-core alone registers none
import '@tensorflow/tfjs-layers';
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { TensorflowBackend } from '../../kernels/tensorflow/index.js';
import { setDefaultPrecision } from '../../src/index.js';
import type { Precision } from '../../src/index.js';
import { benchAttention } from './attention.js';
import { backendNames, chooseBackend } from './backend.js';
import type { BackendOptions } from './backend.js';
import type { Bench } from './bench.js';
import { benchCalls } from './calls.js';
import type { CallFigure } from './calls.js';
import { anyClock, SteadyClock } from './clock.js';
import { benchDecode } from './decode.js';
import { measure, tfjsClock } from './measure.js';
import { onnxProgram, stopOnSignals, torchProgram } from './peers.js';
import { callTable, kernelTable, trainingTable, withRatios } from './report.js';
import type { Line } from './report.js';
import { attentionShapes, decodeShapes, nameOf, trainingShapes } from './shapes.js';
import type { ShapeSet } from './shapes.js';
import { benchTraining } from './training.js';
import type { TrainingLine } from './training.js';

interface Flags extends BackendOptions {
  shapes?: ShapeSet;
  precision: Precision;
  peers: string[];
  kernels: string[];
  lengths?: number[];
  batch?: number;
  markdown?: string;
  json?: string;
}

const flags = readFlags();
stopOnSignals();
const device = await chooseBackend(flags);
setDefaultPrecision(flags.precision);
const set = flags.shapes ?? defaultShapes();
const programs = { onnx: onnxProgram(), torch: torchProgram() };
const bench: Bench = {
  isSoftware: device.isSoftware,
  clock: new SteadyClock(device.isSoftware ? anyClock : tfjsClock),
  hasTfjs: flags.peers.includes('tfjs'),
  programs: (['onnx', 'torch'] as const)
    .filter((name) => flags.peers.includes(name))
    .map((name) => programs[name]),
};
const title = `backend ${tf.getBackend()} on ${device.name}, shapes '${set}', precision ${flags.precision}`;
console.log(title);
if (tf.getBackend() !== 'webgpu')
  console.log(`tfjs multiplies matrices of 512 at ${await matrixGigaflops()} GFLOP/s`);

const lines: Line[] = [];
const training: TrainingLine[] = [];
const calls: CallFigure[] = [];
const failures: string[] = [];
if (flags.kernels.includes('attention')) {
  for (const shape of attentionShapes[set])
    await attempt(nameOf(shape), async () => addLines(await benchAttention(shape, bench)));
}
if (flags.kernels.includes('decode')) {
  for (const shape of decodeShapes[set])
    await attempt(nameOf(shape), async () => addLines(await benchDecode(shape, bench)));
}
if (flags.kernels.includes('training')) {
  const { preset, lengths } = trainingShapes[set];
  for (const length of flags.lengths ?? lengths)
    await attempt(`training step, ${preset} S${length}`, async () => {
      training.push(await benchTraining(preset, length, flags.batch, flags, bench));
    });
}
if (flags.kernels.includes('calls')) await attempt('calls', async () => void calls.push(...benchCalls()));
console.log(`\n${reportText()}`);
process.exit(failures.length > 0 ? 1 : 0);

/** A shape that fails is named and the others are measured; the files have all that is there so far. */
async function attempt(name: string, run: () => Promise<void>): Promise<void> {
  process.stderr.write(`${name} …\n`);
  try {
    await run();
  } catch (error) {
    failures.push(`${name}: ${(error as Error).message}`);
  }
  writeFiles();
}

function addLines(measured: Line[]): void {
  for (const { kernel, lane } of measured) process.stderr.write(`  ${kernel} ran on ${lane}\n`);
  lines.push(...measured);
}

function reportText(): string {
  const versionTexts = Object.entries(versions()).map(([name, version]) => `${name} ${version}`);
  return [
    ...(lines.length > 0 ? [kernelTable(lines)] : []),
    ...(training.length > 0 ? [trainingTable(training)] : []),
    ...(calls.length > 0 ? [callTable(calls)] : []),
    ...failures.map((failure) => `failed: ${failure}`),
    versionTexts.join(', '),
  ].join('\n\n');
}

function writeFiles(): void {
  const { markdown, json, precision } = flags;
  if (markdown) writeFileSync(markdown, `${title}\n\n${reportText()}\n`);
  if (!json) return;
  const run = { device, backend: tf.getBackend(), shapes: set, precision, versions: versions() };
  const figures = { lines: lines.map(withRatios), training: training.map(withRatios), calls, failures };
  writeFileSync(json, `${JSON.stringify({ ...run, ...figures }, null, 2)}\n`);
}

/** Of us and of all peers that have answered. */
function versions(): Record<string, string> {
  return { ...ownVersions(), ...programs.onnx.versions, ...programs.torch.versions };
}

function ownVersions(): Record<string, string> {
  const versions = { node: process.versions.node, tfjs: tf.version_core };
  if (tf.getBackend() === 'tensorflow')
    return { ...versions, TensorFlow: (tf.backend() as TensorflowBackend).binding.TF_Version };
  if (tf.getBackend() !== 'webgpu') return versions;
  const { version } = createRequire(import.meta.url)('webgpu/package.json') as { version: string };
  return { ...versions, 'webgpu (Dawn)': version };
}

function defaultShapes(): ShapeSet {
  if (!device.isSoftware) return 'paper';
  return ['wasm', 'tensorflow'].includes(tf.getBackend()) ? 'medium' : 'small';
}

/** What this machine can do: the yardstick for the figures of the CPU backends. */
async function matrixGigaflops(): Promise<string> {
  const [a, b] = [tf.randomNormal<tf.Rank.R2>([512, 512]), tf.randomNormal<tf.Rank.R2>([512, 512])];
  const { wallMs } = await measure(() => tf.matMul(a, b), bench.clock);
  tf.dispose([a, b]);
  return ((2 * 512 ** 3) / wallMs / 1e6).toPrecision(3);
}

function readFlags(): Flags {
  const listOf = (choices: string[]) => (text: string) => {
    const names = text.split(',');
    if (names.every((name) => choices.includes(name))) return names;
    throw new InvalidArgumentError(`Allowed, comma-separated: ${choices.join(', ')}.`);
  };
  const count = (text: string): number => {
    const value = Number(text);
    if (Number.isInteger(value) && value > 0) return value;
    throw new InvalidArgumentError('Expected a positive integer.');
  };
  const program = new Command('bench')
    .description('Times forward, backward, decode and the training step, beside peers in the same run.')
    .addOption(
      new Option('--backend <name>', 'default: webgpu where there is a GPU, else wasm').choices(backendNames),
    )
    .addOption(
      new Option(
        '--shapes <set>',
        'default: paper on a GPU, medium on wasm and tensorflow, small elsewhere',
      ).choices(Object.keys(attentionShapes)),
    )
    .addOption(
      new Option('--precision <name>', 'what is asked for; the table says what ran')
        .choices(['float32', 'tf32', 'float16', 'bfloat16', 'auto'])
        .default('float32'),
    )
    .option(
      '--peers <names>',
      'comma-separated: tfjs (composed ops), onnx (ONNX Runtime on WebGPU), torch (PyTorch on CUDA), or none',
      listOf(['tfjs', 'onnx', 'torch', 'none']),
      ['tfjs'],
    )
    .option(
      '--kernels <names>',
      'comma-separated: attention, decode, training, and calls (through tfjs-node)',
      listOf(['attention', 'decode', 'training', 'calls']),
      ['attention', 'decode'],
    )
    .option(
      '--lengths <numbers>',
      'of the training step, comma-separated; default: those of the shapes',
      (text) => text.split(',').map(count),
    )
    .option(
      '--batch <number>',
      "sequences a training step; default: the tokens a step of the shapes' preset",
      count,
    )
    .option('--stock', "keep tfjs's own GPU device instead of ours", false)
    .option('--no-matrices', 'our GPU device without subgroup matrices, as most visitors have it')
    .option('--markdown <file>', 'also write the tables there')
    .option('--json <file>', 'also write the figures as JSON');
  return program.parse().opts<Flags>();
}
