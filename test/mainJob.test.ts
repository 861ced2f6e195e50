/** npm start as a stranger runs it: a process of its own, interrupted, resumed, and given what it cannot use. */
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs-core';
import { RunFolder, filesOf } from '../demo/node/runFolder.js';
import { loadDeepseek } from '../src/models.js';
import { availableDevices } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { isTensorflowSetUp } from './support/tensorflow.js';

const root = fileURLToPath(new URL('..', import.meta.url));

interface Ended {
  code: number | null;
  output: string;
}

/** `interruptAt`: Ctrl-C as soon as this text has been printed. */
function start(args: string[], interruptAt?: string): Promise<Ended> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'demo/node/train.ts', ...args], { cwd: root });
  let output = '';
  let isInterrupted = false;
  const onData = (data: Buffer): void => {
    output += data.toString();
    if (interruptAt === undefined || isInterrupted || !output.includes(interruptAt)) return;
    isInterrupted = true;
    child.kill('SIGINT');
  };
  child.stdout.on('data', onData);
  child.stderr.on('data', onData);
  return new Promise((resolve) => {
    child.on('close', (code) => {
      resolve({ code, output });
    });
  });
}

async function lossesIn(run: string): Promise<number[]> {
  const checkpoint = await (await RunFolder.open(run)).newest();
  const state = JSON.parse(await readFile(join(checkpoint, 'trainer.json'), 'utf8')) as { losses: number[] };
  return state.losses;
}

describe('main job', function () {
  this.timeout(120_000);
  let folder: string;
  let corpus: string;
  const tiny = (run: string, ...more: string[]): string[] => [
    ...['--backend', 'wasm', '--preset', 'tiny', '--corpus', corpus, '--out', join(folder, run)],
    ...['--sample', 'Some', '--sample-tokens', '12', ...more],
  ];
  before(async () => {
    await tf.setBackend('cpu');
    folder = await mkdtemp(join(tmpdir(), 'tfjs-mla-'));
    corpus = join(folder, 'corpus.txt');
    await writeFile(corpus, 'Some apples are red, and others are green. '.repeat(60));
  });
  after(() => rm(folder, { recursive: true }));

  it('trains, saves what Hugging Face reads, draws, generates and says what ran where', async () => {
    const { code, output } = await start(tiny('whole', '--steps', '8'));
    expectEqual(code, 0, output);
    for (const part of [
      'backend   wasm (',
      'attention MLAAttention on wasm',
      '16,880 parameters',
      'to step 8, 2 x 32 bytes a step',
      '8/8 | loss ',
      'bits per byte (byte frequencies alone: ',
      'prefill ',
      'decode ',
      'of latents; keys and values per head would take',
    ]) {
      expectTrue(output.includes(part), `expected "${part}" in: ${output}`);
    }
    const run = join(folder, 'whole');
    expectEqual((await readdir(run)).sort(), ['loss.svg', 'samples.txt', 'step-000008']);
    expectTrue((await readFile(join(run, 'loss.svg'), 'utf8')).startsWith('<svg'), 'expected an SVG');
    expectTrue(
      (await readFile(join(run, 'samples.txt'), 'utf8')).startsWith('step 8: Some'),
      'expected a sample',
    );
    const model = await loadDeepseek(filesOf(join(run, 'step-000008')));
    expectEqual(model.parameterCount, 16880);
    model.dispose();
  });

  it('Ctrl-C saves; --resume goes on with the very same losses', async () => {
    const run = join(folder, 'interrupted');
    // 300 steps take seconds: time enough to interrupt them
    const first = await start(tiny('interrupted', '--steps', '300'), '0/300');
    expectEqual(first.code, 0, first.output);
    expectTrue(
      first.output.includes(`stopped and saved; go on with:  npm start -- --resume ${run}`),
      first.output,
    );
    const before = await lossesIn(run);
    expectTrue(before.length > 0 && before.length < 300, `expected some of 300 steps, got ${before.length}`);

    const resumed = await start(['--backend', 'wasm', '--corpus', corpus, '--resume', run]);
    expectEqual(resumed.code, 0, resumed.output);
    expectTrue(resumed.output.includes(`from step ${before.length} to step 300`), resumed.output);
    const straight = await start(tiny('straight', '--steps', '300'));
    expectEqual(straight.code, 0, straight.output);
    expectEqual(await lossesIn(run), await lossesIn(join(folder, 'straight')), 'losses');
  });

  it('takes the best backend that is here, and says why not a better one', async () => {
    const { code, output } = await start(tiny('unforced', '--steps', '1').slice(2));
    expectEqual(code, 0, output);
    const hasGpu = availableDevices().some(({ backend, isSoftware }) => backend === 'webgpu' && !isSoftware);
    const withoutGpu = isTensorflowSetUp
      ? ['backend   tensorflow (', 'not webgpu: ']
      : ['backend   wasm (', 'not webgpu: ', 'not tensorflow: '];
    for (const part of hasGpu ? ['backend   webgpu ('] : withoutGpu) {
      expectTrue(output.includes(part), `expected "${part}" in: ${output}`);
    }
  });

  it('--minutes sets the steps by the pace', async () => {
    const { code, output } = await start(tiny('minutes', '--minutes', '0.03'));
    expectEqual(code, 0, output);
    const losses = await lossesIn(join(folder, 'minutes'));
    expectTrue(losses.length >= 5, `expected at least the first five steps, got ${losses.length}`);
  });

  it('what it cannot use is a clear error, and nothing is left half-written', async () => {
    const expectError = async (args: string[], message: string): Promise<void> => {
      const { code, output } = await start(args);
      expectTrue(output.includes(message), `expected "${message}" in: ${output}`);
      expectEqual(code, 1, 'exit code');
    };
    const empty = join(folder, 'empty.txt');
    await writeFile(empty, '\n \n');
    await expectError(
      tiny('none', '--corpus', empty),
      `error: the corpus ${empty} is empty: no text in 1 files`,
    );
    await expectError(tiny('none', '--corpus', join(folder, 'absent')), 'error: the corpus');
    await expectError(
      tiny('none', '--sequence', '5000'),
      'error: Trainer: expected more than sequence=5000 bytes',
    );
    await expectError(tiny('corpus.txt/run'), `error: cannot write to the output folder ${corpus}/run: `);
    await expectError(
      tiny('whole'),
      `error: ${join(folder, 'whole')} holds a run already: go on with --resume `,
    );
    if (!isTensorflowSetUp) {
      await expectError(
        tiny('none', '--backend', 'tensorflow'),
        'error: backend tensorflow was asked for and is not here: tensorflow: ',
      );
    }
    await expectError(tiny('none', '--batch', '0'), "error: option '--batch <n>' argument '0' is invalid.");
    await expectError(
      ['--backend', 'wasm', '--corpus', corpus, '--resume', join(folder, 'none')],
      `error: ${join(folder, 'none')} holds no checkpoint`,
    );
    await expectError(
      ['--resume', join(folder, 'whole'), '--batch', '3'],
      "error: option '--resume <folder>' cannot be used with option '--batch <n>'",
    );
    const weights = join(folder, 'whole', 'step-000008', 'model.safetensors');
    const content = await readFile(weights);
    await writeFile(weights, content.subarray(0, content.length - 100));
    await expectError(
      ['--backend', 'wasm', '--corpus', corpus, '--resume', join(folder, 'whole')],
      'error: model.safetensors: truncated: ',
    );
    expectTrue(!(await readdir(folder)).includes('none'), 'expected no folder of a run that did not start');
  });

  it('--help tells all options', async () => {
    const { code, output } = await start(['--help']);
    expectEqual(code, 0, output);
    for (const option of [
      ...[
        'backend',
        'preset',
        'hidden',
        'layers',
        'heads',
        'batch',
        'sequence',
        'lr',
        'steps',
        'minutes',
        'seed',
      ],
      ...['corpus', 'out', 'resume', 'save-every', 'sample', 'sample-tokens', 'temperature', 'top-k'],
    ]) {
      expectTrue(output.includes(`--${option}`), `expected --${option} in: ${output}`);
    }
  });
});

describe('run folder', () => {
  let path: string;
  beforeEach(async () => {
    path = await mkdtemp(join(tmpdir(), 'tfjs-mla-'));
  });
  afterEach(() => rm(path, { recursive: true }));

  it('keeps the checkpoint before until the new one is whole', async () => {
    const folder = await RunFolder.create(path);
    await folder.save(9, new Map([['a', Uint8Array.of(1)]]));
    // a folder cannot be written as a file: the save fails half-way
    const bad = new Map<string, Uint8Array>([
      ['a', Uint8Array.of(2)],
      ['no/such/folder', Uint8Array.of(2)],
    ]);
    const error = await folder.save(10, bad).catch((reason: unknown) => reason);
    expectTrue(error instanceof Error, 'expected the save to fail');
    expectEqual(await folder.newest(), join(path, 'step-000009'));
    await folder.save(10, new Map([['a', Uint8Array.of(3)]]));
    expectEqual(await folder.newest(), join(path, 'step-000010'));
    expectEqual([...(await readFile(join(path, 'step-000010', 'a')))], [3]);
    expectEqual(await readdir(path), ['step-000010'], 'files');
  });
});
