import { readFile, readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { Stats } from 'node:fs';

/** A text file, or all .txt files of a folder in order of their names. Throws if there is no text at all. */
export async function textFiles(path: string): Promise<string[]> {
  const isFolder = (await statOf(path)).isDirectory();
  const names = isFolder ? (await readdir(path)).filter((name) => name.endsWith('.txt')).sort() : [];
  const files = isFolder ? names.map((name) => join(path, name)) : [path];
  const texts = await Promise.all(files.map((file) => readFile(file, 'utf8')));
  if (texts.every((text) => text.trim() === ''))
    throw new Error(`the corpus ${path} is empty: no text in ${files.length} files`);
  return texts;
}

async function statOf(path: string): Promise<Stats> {
  try {
    return await stat(path);
  } catch (error) {
    throw new Error(`the corpus ${path} cannot be read: ${(error as Error).message}`, { cause: error });
  }
}
