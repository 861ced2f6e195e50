/** npm run build:native: compiles the native library with gcc into native/, if it has changed. */
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
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

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
const linkFlags = ['-shared', '-static-libgcc', '-Wl,-z,nodelete', '-Wl,-z,noexecstack', '-Wl,-z,now'];

const sources = ['', 'cpu'].flatMap((part) =>
  readdirSync(join(here, part))
    .filter((name) => /\.[ch]$/.test(name))
    .sort()
    .map((name) => join(here, part, name)),
);

function fingerprint(): string {
  const hash = createHash('sha256');
  for (const file of [import.meta.filename, ...sources]) hash.update(readFileSync(file));
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

async function build(): Promise<void> {
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
    const rest = ['addon.c', 'cache_append.c', 'call.c', 'op.c', 'tensorflow.c', 'cpu/threads.c'].map(
      (name) => join(here, name),
    );
    mkdirSync(folder, { recursive: true });
    await gcc([...flags, ...linkFlags, ...rest, ...(await Promise.all(kernels)), '-o', `${library}.partial`]);
    renameSync(`${library}.partial`, library);
    writeFileSync(stamp, fingerprint());
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

const isFresh = existsSync(library) && existsSync(stamp) && readFileSync(stamp, 'utf8') === fingerprint();
const reason = isFresh ? undefined : await whyNot();
if (reason) console.error(`build:native: no native library is built: ${reason}`);
else if (!isFresh) await build();
