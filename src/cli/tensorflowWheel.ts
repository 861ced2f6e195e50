/** Reads wheels, which are zip files. */
import { createWriteStream, existsSync, renameSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { crc32 } from 'node:zlib';
import { openPromise } from 'yauzl';
import type { Entry, ZipFile } from 'yauzl';
import { libraryFolder } from '../device/tfjsNode.js';
import { stop } from './progress.js';
import { partial } from './tfjsNode.js';

export interface Wheel {
  /** Name and version, as in `tensorflow_cpu-2.18.1`. */
  readonly source: string;
  readonly sizes: ReadonlyMap<string, number>;
  extract(name: string, target: string): Promise<void>;
  close(): void;
}

export const libraries = ['libtensorflow_cc.so.2', 'libtensorflow_framework.so.2'] as const;

/** The names that the binding is linked by. */
export const libraryLinks: Readonly<Record<string, string>> = {
  [`${libraryFolder}/libtensorflow.so`]: libraries[0],
  [`${libraryFolder}/libtensorflow_framework.so`]: libraries[1],
};

/** What the binding includes, under all the paths that it has had from 2.12 to 2.21: 150 kB of 280 MB. */
const headers =
  /^(tensorflow\/c\/\w+|tensorflow\/c\/eager\/c_api|(tensorflow\/(core|tsl)|tsl)\/platform\/ctstring\w*|((tensorflow|xla)\/)?tsl\/c\/tsl_status)\.h$/;

/** Where a file of TensorFlow's wheel belongs in the folder of tfjs-node; undefined where nothing there needs it. */
export function placeInTfjsNode(name: string): string | undefined {
  const library = libraries.find((each) => name === `tensorflow/${each}`);
  if (library) return `${libraryFolder}/${library}`;
  const header = name.replace(/^tensorflow\/include\//, '');
  return header !== name && headers.test(header) ? `deps/include/${header}` : undefined;
}

export async function openWheel(file: string): Promise<Wheel> {
  if (!existsSync(file)) {
    stop(`expected a wheel, got ${file}, which does not exist; see --wheel FILE`);
  }
  const zip = await openZip(file);
  const entries = new Map<string, Entry>();
  for await (const entry of zip.eachEntry()) entries.set(entry.fileName, entry);
  const metadata = [...entries.keys()].find((name) => /^[^/]+\.dist-info\//.test(name));
  if (!metadata) {
    zip.close();
    stop(`expected a wheel, got ${file}, a zip file without a .dist-info folder`);
  }
  return {
    source: metadata.slice(0, metadata.indexOf('.dist-info/')),
    sizes: new Map([...entries].map(([name, { uncompressedSize }]) => [name, uncompressedSize])),
    extract: async (name, target) => extract(zip, entries.get(name) ?? absent(file, name), target),
    close: () => zip.close(),
  };
}

async function openZip(file: string): Promise<ZipFile> {
  try {
    return await openPromise(file, { autoClose: false });
  } catch (error) {
    const reason = (error as Error).message;
    return stop(`expected a wheel, got ${file}, which is no zip file: ${reason}`);
  }
}

/** The reader checks sizes but no sums. */
async function extract(zip: ZipFile, entry: Entry, target: string): Promise<void> {
  let sum = 0;
  async function* summed(chunks: AsyncIterable<Buffer>) {
    for await (const chunk of chunks) {
      sum = crc32(chunk, sum);
      yield chunk;
    }
  }
  await pipeline(await zip.openReadStreamPromise(entry), summed, createWriteStream(partial(target)));
  if (sum !== entry.crc32) {
    stop(`expected ${entry.fileName} whole, got other bytes; download the wheel again`);
  }
  renameSync(partial(target), target);
}

function absent(file: string, name: string): never {
  return stop(`expected ${name} in ${file}, got none`);
}
