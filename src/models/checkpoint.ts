import { fail } from '../core/errors.js';
import { readSafetensors } from './safetensors.js';
import type { StoredTensor } from './safetensors.js';

/** The files of a checkpoint folder, wherever it lies: on a disk, behind a URL, in a browser's storage. */
export interface CheckpointFiles {
  /** The whole file, or undefined if there is none of that name. */
  read(name: string): Promise<ArrayBuffer | undefined>;
}

const weightsName = 'model.safetensors';
const indexName = 'model.safetensors.index.json';

/** A JSON object out of a checkpoint. Throws if it is absent or not JSON. */
export async function readJson(files: CheckpointFiles, name: string): Promise<Record<string, unknown>> {
  const file = await files.read(name);
  if (!file) fail('checkpoint', `${name} is missing`);
  try {
    return JSON.parse(new TextDecoder().decode(file)) as Record<string, unknown>;
  } catch (error) {
    fail('checkpoint', `${name} is not JSON (${(error as Error).message})`);
  }
}

/** All tensors of a checkpoint: one model.safetensors, or the shards that its index names. */
export async function readWeights(files: CheckpointFiles): Promise<Map<string, StoredTensor>> {
  const single = await files.read(weightsName);
  if (single) return readSafetensors(single, weightsName).tensors;
  if (!(await files.read(indexName))) {
    fail('checkpoint', `has neither ${weightsName} nor ${indexName}`);
  }
  return readShards(files);
}

async function readShards(files: CheckpointFiles): Promise<Map<string, StoredTensor>> {
  const { weight_map: weightMap } = await readJson(files, indexName);
  if (typeof weightMap !== 'object' || weightMap === null) fail(indexName, 'has no weight_map');
  const shardOf = weightMap as Record<string, string>;
  const all = new Map<string, StoredTensor>();
  for (const shardName of new Set(Object.values(shardOf))) {
    const shard = await files.read(shardName);
    if (!shard) fail('checkpoint', `${shardName} is missing, which ${indexName} names`);
    for (const [name, tensor] of readSafetensors(shard, shardName).tensors) all.set(name, tensor);
  }
  for (const [name, shardName] of Object.entries(shardOf)) {
    if (!all.has(name)) fail('checkpoint', `${name} is missing in ${shardName}, where ${indexName} has it`);
  }
  return all;
}
