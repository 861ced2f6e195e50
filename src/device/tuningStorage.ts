/** Where the tuner's findings lie: in Node a file in the user's cache folder, in a page localStorage, in a worker nowhere. */
import type { TuningStorage } from '../core/tuner.js';

/** What this program has; undefined where there is nothing to write to. */
export function tuningStorage(): TuningStorage | undefined {
  if (isNode()) return fileStorage();
  const key = 'tfjs-mla tuning';
  try {
    const { localStorage } = globalThis; // a page may be forbidden to look at it
    if (localStorage === undefined) return undefined;
    return { read: () => localStorage.getItem(key), write: (text) => localStorage.setItem(key, text) };
  } catch {
    return undefined;
  }
}

function isNode(): boolean {
  const { process } = globalThis as { process?: NodeJS.Process };
  return process?.versions?.node !== undefined && 'getBuiltinModule' in process;
}

/**
 * A file in Node; default tfjs-mla/tuning.json in $XDG_CACHE_HOME or ~/.cache. It is replaced by renaming, so that no
 * other process ever reads half of it.
 *
 * Node's modules are not imported: a browser's bundle has none.
 */
export function fileStorage(path = cacheFile): TuningStorage {
  const fs = process.getBuiltinModule('node:fs');
  const paths = process.getBuiltinModule('node:path');
  return {
    read: () => (fs.existsSync(path()) ? fs.readFileSync(path(), 'utf8') : undefined),
    write: (text) => {
      const file = path();
      const unfinished = `${file}.${process.pid}`;
      fs.mkdirSync(paths.dirname(file), { recursive: true });
      try {
        fs.writeFileSync(unfinished, text);
        fs.renameSync(unfinished, file);
      } finally {
        fs.rmSync(unfinished, { force: true });
      }
    },
  };
}

function cacheFile(): string {
  const path = process.getBuiltinModule('node:path');
  const { homedir } = process.getBuiltinModule('node:os');
  const caches = process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache');
  return path.join(caches, 'tfjs-mla', 'tuning.json');
}
