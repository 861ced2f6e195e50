/** npm run build:wasm: compiles assembly/ to binaries.ts, once for every kind of memory and engine. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

const here = import.meta.dirname;
const binaries = join(here, 'binaries.ts');
const compiler = fileURLToPath(import.meta.resolve('assemblyscript/bin/asc.js'));

const kernels = join(here, 'assembly/index.ts');
const threads = join(here, 'assembly/threads.ts');

// the engine wants a maximum: all that 32 bits can address
const shared = ['--sharedMemory', '--maximumMemory', '65536'];

const variants = {
  simd: [kernels],
  relaxedSimd: [kernels, '--enable', 'relaxed-simd'],
  // for tfjs's threaded build, whose memory is shared
  sharedSimd: [kernels, threads, ...shared, '--enable', 'threads'],
  sharedRelaxedSimd: [kernels, threads, ...shared, '--enable', 'threads,relaxed-simd'],
};

const flags = [
  ...['-O3', '--converge', '--enable', 'simd', '--runtime', 'stub'],
  // tfjs's memory: nothing of ours may lie in it, no abort message either
  ...['--importMemory', '--noExportMemory', '--use', 'abort='],
  // v128 between our own functions is no exchange with the host
  ...['--disableWarning', '112', '--pedantic'],
];

async function compile(folder: string, name: string, args: string[]): Promise<string> {
  const outFile = join(folder, `${name}.wasm`);
  await run(process.execPath, [compiler, ...args, '--outFile', outFile, ...flags]);
  return `export const ${name} = '${readFileSync(outFile).toString('base64')}';`;
}

function fingerprint(): string {
  const hash = createHash('sha256');
  const folder = join(here, 'assembly');
  const sources = readdirSync(folder)
    .sort()
    .map((file) => join(folder, file));
  for (const file of [import.meta.filename, ...sources]) hash.update(readFileSync(file));
  return hash.digest('hex').slice(0, 16);
}

const stamp = `// compiled from ${fingerprint()}`;
if (!existsSync(binaries) || !readFileSync(binaries, 'utf8').startsWith(stamp)) {
  const folder = mkdtempSync(join(tmpdir(), 'tfjs-mla-'));
  try {
    const lines = Object.entries(variants).map(([name, args]) => compile(folder, name, args));
    const text = [stamp, '// by npm run build:wasm; base64', ...(await Promise.all(lines)), ''].join('\n');
    // whole or not at all
    writeFileSync(`${binaries}.partial`, text);
    renameSync(`${binaries}.partial`, binaries);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
