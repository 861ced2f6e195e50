/** Compiles the .cu files, one module each, and writes the assembler file that puts them into the native library. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { findNvrtc, wheels } from './toolkit.js';
import type { Nvcc, Nvrtc } from './toolkit.js';

const run = promisify(execFile);

const here = import.meta.dirname;
const imageFolder = join(here, '../../native/cuda');

/** One .cu file and what became of it. */
export interface Module {
  /** As plans name it: the folder and the stem of the file. */
  readonly name: string;
  readonly fingerprint: string;
  /** For drivers that know CUDA 13; `older` is the same for others. */
  readonly image: string;
  readonly older?: string;
  /** What ptxas says of its kernels. */
  readonly report: string;
}

/** The folders of kernels/cuda whose kernels are part of the library. */
export const families = readdirSync(here).filter((name) => existsSync(join(here, name, 'plan.c')));

/**
 * Machine code for 8.0 serves 8.6 and 8.9 too, and the PTX whatever comes after 9.0. Hopper's own code is for 9.0 alone;
 * what is not written for it is translated for it once more, or the driver would do so at the first call.
 */
const targets = {
  general: { nvcc: ['-gencode=arch=compute_80,code=[sm_80,sm_90,compute_80]'], nvrtc: ['80', '90'] },
  hopper: { nvcc: ['-gencode=arch=compute_90a,code=sm_90a'], nvrtc: ['90a'] },
};

const nvccFlags = ['-std=c++17', '--fatbin', '--compress-mode=size', '-Xptxas', '-v'];
// LZ4, which also old drivers decompress
const olderFlags = ['-64', '--compress-all', '--compress-mode=speed'];

/** Compiles what has changed since the images were made that lie in native/cuda. */
export async function buildModules(nvcc: Nvcc): Promise<Module[]> {
  const nvrtc = findNvrtc();
  if (!nvrtc) {
    console.error(
      "build:native: without code for drivers older than 580, which needs NVRTC: 'npm run setup:nvcc'",
    );
  }
  const names = families.flatMap((family) =>
    readdirSync(join(here, family))
      .filter((file) => file.endsWith('.cu'))
      .sort()
      .map((file) => `${family}/${file.slice(0, -'.cu'.length)}`),
  );
  const modules: Module[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    while (next < names.length) {
      const index = next++;
      modules[index] = await buildModule(names[index], nvcc, nvrtc);
    }
  };
  await Promise.all(Array.from({ length: availableParallelism() }, work));
  return modules;
}

async function buildModule(name: string, nvcc: Nvcc, nvrtc: Nvrtc | undefined): Promise<Module> {
  const source = join(here, `${name}.cu`);
  const stem = join(imageFolder, name);
  const image = `${stem}.fatbin`;
  const older = nvrtc ? `${stem}.older.fatbin` : undefined;
  const fingerprint = fingerprintOf(source, nvcc, nvrtc);
  const record = `${stem}.json`;
  if (existsSync(record)) {
    const built = JSON.parse(readFileSync(record, 'utf8')) as Pick<Module, 'fingerprint' | 'report'>;
    if (built.fingerprint === fingerprint) return { name, image, older, ...built };
  }
  console.error(`build:native: compiling ${name}.cu`);
  mkdirSync(dirname(stem), { recursive: true });
  const target = name.startsWith('sm90/') ? targets.hopper : targets.general;
  const report = await call(nvcc.file, [...nvccFlags, ...target.nvcc, source, '-o', image]);
  if (nvrtc && older) await compileWithNvrtc(source, target.nvrtc, older, nvcc, nvrtc);
  writeFileSync(record, JSON.stringify({ fingerprint, report }));
  return { name, fingerprint, image, older, report };
}

async function compileWithNvrtc(
  source: string,
  architectures: readonly string[],
  image: string,
  nvcc: Nvcc,
  { library, includes }: Nvrtc,
): Promise<void> {
  const parts: string[] = [];
  for (const architecture of architectures) {
    const cubin = `${image}.${architecture}.cubin`;
    await call('python3', [
      join(here, 'nvrtc.py'),
      library,
      source,
      cubin,
      `sm_${architecture}`,
      ...includes,
    ]);
    parts.push(`--image3=kind=elf,sm=${architecture},file=${cubin}`);
  }
  await call(join(dirname(nvcc.file), 'fatbinary'), [...olderFlags, ...parts, '--create', image]);
}

/** Returns what the compiler reports; its own messages are an error's text. */
async function call(file: string, args: readonly string[]): Promise<string> {
  try {
    return (await run(file, args, { maxBuffer: 1 << 26 })).stderr;
  } catch (error) {
    const { stderr, message } = error as Error & { stderr?: string };
    throw new Error(`build:native: ${stderr || message}`, { cause: error });
  }
}

/** Of all that an image depends on. */
function fingerprintOf(source: string, nvcc: Nvcc, nvrtc: Nvrtc | undefined): string {
  const tools = [nvcc.version, nvccFlags, olderFlags, targets, nvrtc ? wheels : 'no NVRTC'];
  const hash = createHash('sha256').update(JSON.stringify(tools));
  for (const file of [join(here, 'nvrtc.py'), ...withIncludes(source)]) hash.update(readFileSync(file));
  return hash.digest('hex');
}

/** A file of ours and those that it includes, near and far. */
function withIncludes(file: string, found = new Set<string>()): Set<string> {
  if (found.has(file) || !existsSync(file)) return found;
  found.add(file);
  for (const [, name] of readFileSync(file, 'utf8').matchAll(/^\s*#\s*include\s+"(.+)"/gm)) {
    withIncludes(join(dirname(file), name), found);
  }
  return found;
}

/** The text of an assembler file with the images and the table of modules.h. */
export function assemblyOf(modules: readonly Module[]): string {
  const images = modules.map(({ name, image, older }, index) =>
    [
      `name_${index}: .asciz "${name}"`,
      ...embedded(`image_${index}`, image),
      ...(older ? embedded(`older_${index}`, older) : []),
    ].join('\n'),
  );
  const rows = modules.map(({ older }, index) => {
    const olderEnds = older ? `older_${index}, older_${index}_end` : '0, 0';
    return `.quad name_${index}, image_${index}, image_${index}_end, ${olderEnds}`;
  });
  return `.section .rodata
${images.join('\n')}
.section .data.rel.ro, "aw"
.balign 8
.globl mla_modules
.hidden mla_modules
mla_modules:
${rows.join('\n')}
.quad 0, 0, 0, 0, 0
.section .note.GNU-stack, "", @progbits
`;
}

function embedded(label: string, file: string): string[] {
  return ['.balign 64', `${label}: .incbin "${file}"`, `${label}_end: .byte 0`];
}
