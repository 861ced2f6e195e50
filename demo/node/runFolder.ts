import { appendFile, mkdir, open, readFile, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { CheckpointFiles } from '../../src/models.js';

/**
 * The folder of a training run. Its checkpoints are folders step-000120: written under another name, brought to the
 * disk, then renamed, and only then is the one before removed. So the newest step-* folder is always whole.
 */
export class RunFolder {
  private constructor(readonly path: string) {}

  /** A folder for a new run. Throws if nothing can be written there, or if it holds a run already. */
  static async create(path: string): Promise<RunFolder> {
    const folder = new RunFolder(path);
    await mkdir(path, { recursive: true }).catch(failToWrite(path));
    await folder.checkWritable();
    if ((await folder.checkpoints()).length > 0) {
      throw new Error(`${path} holds a run already: go on with --resume ${path}, or give another --out`);
    }
    return folder;
  }

  /** The folder of a run to go on with. Throws if it holds no checkpoint or nothing can be written there. */
  static async open(path: string): Promise<RunFolder> {
    const folder = new RunFolder(path);
    await folder.newest();
    await folder.checkWritable();
    return folder;
  }

  /** The newest checkpoint's folder. Throws if there is none. */
  async newest(): Promise<string> {
    const [newest] = await this.checkpoints().catch(() => []);
    if (!newest) throw new Error(`${this.path} holds no checkpoint (a folder step-…)`);
    return join(this.path, newest);
  }

  /** Replaces the checkpoint before by this one. A step that is saved already is left as it is. */
  async save(step: number, files: ReadonlyMap<string, Uint8Array>): Promise<void> {
    const name = `step-${String(step).padStart(6, '0')}`;
    const before = await this.checkpoints();
    if (before.includes(name)) return;
    const partial = join(this.path, `.${name}.partial`);
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial);
    for (const [file, content] of files) await writeThrough(join(partial, file), content);
    await syncFolder(partial);
    await rename(partial, join(this.path, name));
    await syncFolder(this.path);
    for (const checkpoint of before) await rm(join(this.path, checkpoint), { recursive: true });
  }

  /** A file beside the checkpoints, replaced as a whole. */
  async write(name: string, content: string): Promise<void> {
    const partial = join(this.path, `.${name}.partial`);
    await writeThrough(partial, content);
    await rename(partial, join(this.path, name));
  }

  /** More text at the end of a file beside the checkpoints. */
  async append(name: string, text: string): Promise<void> {
    await appendFile(join(this.path, name), text);
  }

  private async checkWritable(): Promise<void> {
    await this.write('.writable', '').catch(failToWrite(this.path));
    await rm(join(this.path, '.writable'));
  }

  private async checkpoints(): Promise<string[]> {
    const names = await readdir(this.path);
    return names
      .filter((name) => /^step-\d{6,}$/.test(name))
      .sort((a, b) => Number(b.slice(5)) - Number(a.slice(5)));
  }
}

/** A folder's files for readers that know no file system. */
export function filesOf(folder: string): CheckpointFiles {
  return {
    async read(name) {
      try {
        const bytes = await readFile(join(folder, name));
        return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
        throw error;
      }
    },
  };
}

function failToWrite(path: string): (error: Error) => never {
  return (error) => {
    throw new Error(`cannot write to the output folder ${path}: ${error.message}`, { cause: error });
  };
}

async function writeThrough(path: string, content: string | Uint8Array): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes names durable; not every system lets a folder be opened. */
async function syncFolder(path: string): Promise<void> {
  try {
    const folder = await open(path, 'r');
    await folder.sync().finally(() => folder.close());
  } catch {
    // the files themselves are on the disk already
  }
}
