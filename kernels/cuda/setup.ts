/**
 * npm run setup:nvcc: puts the compilers of the CUDA kernels into node_modules/.cache/cuda, 350 MB, by python3's pip. They
 * need no GPU and no driver. What an interrupted run has downloaded stays in pip's cache.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { toolkitFolder, wheels } from './toolkit.js';

const record = join(toolkitFolder, 'wheels.txt');
const wanted = `${wheels.join('\n')}\n`;

function python(args: string[]): number | null {
  return spawnSync('python3', ['-m', 'pip', ...args], { stdio: ['ignore', 2, 2] }).status;
}

/** In a folder that has its name only when it is whole. Returns why it is not there. */
function fetchWheels(): string | undefined {
  if (spawnSync('python3', ['-m', 'pip', '--version']).status !== 0) {
    return 'expected python3 with pip, got none (Debian: apt install python3-pip)';
  }
  const unfinished = `${toolkitFolder}.part`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  // one command: a second one into the same folder would leave out what lies in a folder that is there
  const flags = ['--disable-pip-version-check', '--no-deps', '--only-binary=:all:', '--target', unfinished];
  const status = python(['install', ...flags, ...wheels]);
  if (status !== 0) return `expected pip to install ${wheels.join(', ')}, got exit code ${status}`;
  writeFileSync(join(unfinished, 'wheels.txt'), wanted);
  rmSync(toolkitFolder, { recursive: true, force: true });
  renameSync(unfinished, toolkitFolder);
  return undefined;
}

if (existsSync(record) && readFileSync(record, 'utf8') === wanted) {
  console.error(`setup:nvcc: ${toolkitFolder} is there`);
} else {
  console.error(`setup:nvcc: ${wheels.length} wheels, 132 MB, into ${toolkitFolder}`);
  const failure = fetchWheels();
  if (failure) {
    console.error(`setup:nvcc: ${failure}`);
    process.exitCode = 1;
  } else {
    console.error('setup:nvcc: done; npm run build:native finds it there');
  }
}
