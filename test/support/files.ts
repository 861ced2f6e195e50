/** Golden files, by their path under golden/. A page gets files.browser.ts in place of this file. */
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

/** The repository's own golden files come first; the second folder exists only where the project is developed. */
const folders = ['../golden/', '../../../shared/golden/'].map((path) => new URL(path, import.meta.url));

export async function readGolden(path: string): Promise<ArrayBuffer> {
  const file = findGolden(path);
  if (!file) throw new Error(`readGolden: expected a file test/golden/${path}, got none`);
  const bytes = await readFile(file);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

/** Also what the server of the browser tests answers under /golden/. */
export function findGolden(path: string): string | undefined {
  return folders.map((folder) => fileURLToPath(new URL(path, folder))).find((file) => existsSync(file));
}
