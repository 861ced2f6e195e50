/** npm run build:native: compiles the native library with gcc, and its CUDA kernels with nvcc, into native/, if it has changed. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { assemblyOf, buildModules, families } from '../cuda/modules.js';
import type { Module } from '../cuda/modules.js';
import { resourcesFile, resourcesText } from '../cuda/resources.js';
import { findNvcc } from '../cuda/toolkit.js';
import type { Nvcc } from '../cuda/toolkit.js';

const run = promisify(execFile);

const here = import.meta.dirname;
const folder = join(here, '../../native');
const library = join(folder, `mla-${process.platform}-${process.arch}.node`);
const stamp = `${library}.stamp`;

const compiler = process.env.CC ?? 'gcc';
const flags = [
  '-std=gnu11',
  '-O3',
  '-Wall',
  '-Wextra',
  '-Werror',
  '-fPIC',
  '-fvisibility=hidden',
  '-fno-math-errno',
];
const instructionSets = {
  sse2: [],
  avx2: ['-mavx2', '-mfma', '-mf16c'],
  avx512: ['-mavx512f', '-mavx512vl', '-mavx512bw', '-mavx512dq', '-mfma', '-mf16c'],
};
// nodelete: TensorFlow keeps pointers to our functions also after a Worker that loaded the file has ended
const linkFlags = [
  '-shared',
  '-static-libgcc',
  '-Wl,-z,defs',
  '-Wl,-z,nodelete',
  '-Wl,-z,noexecstack',
  '-Wl,-z,now',
];

const cuda = join(here, '../cuda');

function filesOf(folder: string, ending: RegExp): string[] {
  return readdirSync(folder)
    .filter((name) => ending.test(name))
    .sort()
    .map((name) => join(folder, name));
}

const plainFolders = [here, cuda, ...families.map((family) => join(cuda, family))];

function fingerprint(modules: readonly Module[]): string {
  const hash = createHash('sha256');
  const sources = [...plainFolders, join(here, 'cpu')].flatMap((part) => filesOf(part, /\.[ch]$/));
  for (const file of [import.meta.filename, ...sources]) hash.update(readFileSync(file));
  for (const module of modules) hash.update(module.fingerprint);
  return hash.digest('hex');
}

/** gcc's own messages are the error's text. */
async function gcc(args: string[]): Promise<void> {
  try {
    await run(compiler, args);
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    throw new Error(`build:native: ${stderr || message}`);
  }
}

async function build(modules: readonly Module[]): Promise<void> {
  const objects = mkdtempSync(join(tmpdir(), 'tfjs-mla-'));
  try {
    const kernels = Object.entries(instructionSets).map(async ([name, instructions]) => {
      const object = join(objects, `${name}.o`);
      await gcc([
        ...flags,
        ...instructions,
        `-DMLA_ISA=${name}`,
        '-c',
        join(here, 'cpu/kernels.c'),
        '-o',
        object,
      ]);
      return object;
    });
    const images = join(objects, 'modules.s');
    writeFileSync(images, assemblyOf(modules));
    const rest = [
      ...plainFolders.flatMap((part) => filesOf(part, /\.c$/)),
      join(here, 'cpu/threads.c'),
      images,
    ];
    mkdirSync(folder, { recursive: true });
    await gcc([...flags, ...linkFlags, ...rest, ...(await Promise.all(kernels)), '-o', `${library}.partial`]);
    renameSync(`${library}.partial`, library);
    writeFileSync(stamp, fingerprint(modules));
  } finally {
    rmSync(objects, { recursive: true });
  }
}

async function whyNot(): Promise<string | undefined> {
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== 'linux-x64') return `supported: linux-x64, got ${platform}`;
  return run(compiler, ['--version']).then(
    () => undefined,
    () => `the compiler ${compiler} is not here (Debian: apt install gcc)`,
  );
}

async function main(): Promise<void> {
  const reason = await whyNot();
  if (reason) {
    console.error(`build:native: no native library is built: ${reason}`);
    return;
  }
  const nvcc = findNvcc();
  if (!nvcc) console.error("build:native: for CPUs alone: no nvcc of CUDA 13 is here: 'npm run setup:nvcc'");
  const modules = nvcc ? await buildModules(nvcc) : [];
  const isFresh =
    existsSync(library) && existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint(modules);
  if (!isFresh) await build(modules);
  if (process.argv.includes('--resources')) writeResources(nvcc, modules);
}

function writeResources(nvcc: Nvcc | undefined, modules: readonly Module[]): void {
  if (!nvcc) throw new Error('build:native: --resources needs an nvcc');
  const { planOnGpu } = createRequire(import.meta.url)(library) as {
    planOnGpu: (call: string) => string;
  };
  writeFileSync(resourcesFile, resourcesText(nvcc.version, modules, planOnGpu));
}

try {
  await main();
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
