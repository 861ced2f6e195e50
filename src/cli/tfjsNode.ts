/** Installed packages, and the record of what setup-tensorflow has put into the folder of one. */
import { existsSync, lstatSync, mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { realpathSync, renameSync, rmSync, rmdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

export const tfjsVersion = '4.22.0';
export const cudaFolder = 'deps/nvidia/cuda_runtime/lib';
export const downloadFolder = 'deps/tfjs-mla-downloads';
const recordFile = 'deps/tfjs-mla.json';

export interface InstalledPackage {
  readonly folder: string;
  readonly version: string;
}

/** A package as a module in the current folder would find it. */
export function findPackage(name: string): InstalledPackage | undefined {
  const folders = createRequire(join(process.cwd(), 'module.js')).resolve.paths(name) ?? [];
  const manifest = folders.map((folder) => join(folder, name, 'package.json')).find(existsSync);
  if (!manifest) return undefined;
  const { version } = readJson(manifest) as { version: string };
  return { folder: realpathSync(dirname(manifest)), version };
}

export function installCommand(name: string): string {
  return `npm install --ignore-scripts ${name}@${tfjsVersion}`;
}

/** What one step has put into the folder; all paths are relative to it. */
interface Part {
  readonly source: string;
  readonly files: readonly string[];
  /** Those of `files` that stood there before and are set aside. */
  readonly replaced: readonly string[];
  readonly done: boolean;
}

/** The source of a part that is there with all its files. */
export function sourceOf(folder: string, kind: string): string | undefined {
  const part = readParts(folder)[kind];
  const whole = part?.done && part.files.every((file) => existsSync(join(folder, file)));
  return whole ? part.source : undefined;
}

/** Records `files` before `fill` writes the first of them, so that whatever happens removePart() knows them. */
export async function addPart(
  folder: string,
  kind: string,
  source: string,
  files: readonly string[],
  fill: () => void | Promise<void>,
): Promise<void> {
  removePart(folder, kind);
  const part = { source, files, replaced: files.filter((file) => isThere(join(folder, file))), done: false };
  writeParts(folder, { ...readParts(folder), [kind]: part });
  try {
    for (const file of part.replaced) renameSync(join(folder, file), aside(join(folder, file)));
    for (const file of files) mkdirSync(dirname(join(folder, file)), { recursive: true });
    await fill();
  } catch (error) {
    removePart(folder, kind);
    throw error;
  }
  writeParts(folder, { ...readParts(folder), [kind]: { ...part, done: true } });
}

/** Puts back what stood there before. */
export function removePart(folder: string, kind: string): void {
  const { [kind]: part, ...others } = readParts(folder);
  if (!part) return;
  for (const file of part.files) {
    const path = join(folder, file);
    const stillTheOther = part.replaced.includes(file) && !isThere(aside(path));
    if (stillTheOther) continue;
    for (const ours of [path, partial(path)]) rmSync(ours, { recursive: true, force: true });
    if (isThere(aside(path))) renameSync(aside(path), path);
    removeEmptyFolders(folder, dirname(path));
  }
  writeParts(folder, others);
}

/** Returns the kinds of what is removed. */
export function removeAllParts(folder: string): string[] {
  const kinds = Object.keys(readParts(folder)).reverse();
  for (const kind of kinds) removePart(folder, kind);
  removeDownloads(folder);
  return kinds;
}

export function removeDownloads(folder: string): void {
  rmSync(join(folder, downloadFolder), { recursive: true, force: true });
  removeEmptyFolders(folder, join(folder, 'deps'));
}

/** Names of files that are not whole yet. */
export function partial(path: string): string {
  return `${path}.part`;
}

function aside(path: string): string {
  return `${path}.before-tfjs-mla`;
}

/** True of a broken link too. */
function isThere(path: string): boolean {
  return lstatSync(path, { throwIfNoEntry: false }) !== undefined;
}

function removeEmptyFolders(from: string, folder: string): void {
  for (let at = folder; at !== from; at = dirname(at)) {
    if (!existsSync(at)) continue;
    if (readdirSync(at).length > 0) return;
    rmdirSync(at);
  }
}

function readParts(folder: string): Record<string, Part> {
  const file = join(folder, recordFile);
  return existsSync(file) ? (readJson(file) as Record<string, Part>) : {};
}

function writeParts(folder: string, parts: Record<string, Part>): void {
  const file = join(folder, recordFile);
  if (Object.keys(parts).length === 0) {
    rmSync(file, { force: true });
    return removeEmptyFolders(folder, dirname(file));
  }
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(partial(file), `${JSON.stringify(parts, null, 2)}\n`);
  renameSync(partial(file), file);
}

function readJson(file: string): unknown {
  return JSON.parse(readFileSync(file, 'utf8'));
}
