/** The golden models and the golden training run: Hugging Face checkpoints, and what they must give. */
import { float32Values, readSafetensors } from '../../src/models.js';
import type { CheckpointFiles, StoredTensor } from '../../src/models.js';
import { readGolden } from './files.js';

/** A folder under golden/; a file that is not there is undefined. */
export function goldenFolder(folder: string): CheckpointFiles {
  return { read: (name) => readGolden(`${folder}/${name}`).catch(() => undefined) };
}

/** Files in memory, as a page or an upload has them. */
export function filesIn(files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>): CheckpointFiles {
  return { read: async (name) => files.get(name)?.slice().buffer };
}

export interface GoldenCase {
  name: string;
  promptLength: number;
  softmaxScale: number;
  rotaryScale: number;
}

export async function goldenCase(kind: 'models' | 'training', name: string): Promise<GoldenCase> {
  const manifest = JSON.parse(new TextDecoder().decode(await readGolden(`${kind}/manifest.json`))) as {
    cases: GoldenCase[];
  };
  const found = manifest.cases.find((other) => other.name === name);
  if (!found) throw new Error(`goldenCase: expected a case ${name}, got none`);
  return found;
}

export interface Expected {
  shape: number[];
  values: Float32Array;
}

/** expected.safetensors of a folder: its tensors by name. */
export async function goldenTensors(
  folder: string,
): Promise<(name: string) => Expected & { stored: StoredTensor }> {
  const { tensors } = readSafetensors(await readGolden(`${folder}/expected.safetensors`));
  return (name) => {
    const stored = tensors.get(name);
    if (!stored) throw new Error(`goldenTensors: expected a tensor ${name}, got none`);
    return { shape: stored.shape, values: float32Values(stored), stored };
  };
}
