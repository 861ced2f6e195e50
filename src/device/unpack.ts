/** Unpacks the archives of the development package @sparticuz/chromium (a browser, SwiftShader, libraries), once a machine. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { homedir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { brotliDecompressSync } from 'node:zlib';

export interface Archives {
  readonly folder: string;
  readonly version: string;
}

/** Where @sparticuz/chromium keeps its archives; undefined if it is not installed. */
export function chromiumArchives(): Archives | undefined {
  let entry: string;
  try {
    entry = createRequire(import.meta.url).resolve('@sparticuz/chromium');
  } catch {
    return undefined;
  }
  const root = join(dirname(entry), '..', '..');
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  return { folder: join(root, 'bin'), version };
}

/** Unpacks `names` into the folder `target` of the cache, unless an earlier process did; returns that folder. */
export function unpackOnce(archives: Archives, target: string, names: readonly string[]): string {
  const parent = join(
    process.env.XDG_CACHE_HOME || join(homedir(), '.cache'),
    'tfjs-mla',
    `chromium-${archives.version}`,
  );
  const folder = join(parent, target);
  if (existsSync(folder)) return folder;
  const unfinished = makeUnfinishedFolder(parent);
  try {
    for (const name of names) unpack(join(archives.folder, name), unfinished);
    renameOrYield(unfinished, folder);
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
  return folder;
}

function makeUnfinishedFolder(parent: string): string {
  try {
    mkdirSync(parent, { recursive: true });
    return mkdtempSync(join(parent, 'unfinished-'));
  } catch (error) {
    const advice = 'set XDG_CACHE_HOME to a folder that can be written';
    throw new Error(`unpackOnce: cannot write the cache folder ${parent}; ${advice}`, { cause: error });
  }
}

function unpack(archive: string, folder: string): void {
  const bytes = brotliDecompressSync(readFileSync(archive));
  const name = basename(archive, '.br');
  if (name.endsWith('.tar')) untar(bytes, folder);
  else writeFileSync(join(folder, name), bytes, { mode: 0o755 });
}

function untar(bytes: Buffer, folder: string): void {
  const { error, status, stderr } = spawnSync('tar', ['-x', '-o', '-f', '-', '-C', folder], { input: bytes });
  if (error) throw error;
  if (status !== 0) throw new Error(`untar: tar ended with ${status}: ${stderr.toString()}`);
}

/** Two processes may unpack at once: the first to finish wins, and both use its folder. */
function renameOrYield(from: string, to: string): void {
  try {
    renameSync(from, to);
  } catch (error) {
    if (!existsSync(to)) throw error;
  }
}
