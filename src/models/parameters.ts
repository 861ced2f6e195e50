import { tensor } from '@tensorflow/tfjs-core';
import type { Variable } from '@tensorflow/tfjs-core';
import { fail, shapeText } from '../core/errors.js';
import { float32Values, storeFloat32 } from './safetensors.js';
import type { StoredTensor } from './safetensors.js';

/**
 * One tensor of a Hugging Face checkpoint, and the variables that hold its rows.
 *
 * The rows come in `groups` equal runs, one per head; each run has rows of every part, in order. So kv_b_proj, whose
 * rows are [keys of head 0, values of head 0, keys of head 1, …], is two variables in as many groups as heads.
 */
export interface ModelParameter {
  name: string;
  shape: number[];
  groups: number;
  parts: Variable[];
}

export function parameter(name: string, parts: Variable[], groups = 1): ModelParameter {
  const rows = parts.reduce((sum, part) => sum + part.shape[0], 0);
  return { name, shape: [rows, ...parts[0].shape.slice(1)], groups, parts };
}

/** Values of each part as the rows of the whole. */
export function joinParts({ parts, groups, shape }: ModelParameter, values: Float32Array[]): Float32Array {
  if (parts.length === 1) return values[0];
  const whole = new Float32Array(shape.reduce((size, n) => size * n, 1));
  forEachRun(parts, groups, (part, from, to, at) => {
    whole.set(values[part].subarray(from, to), at);
  });
  return whole;
}

/** Rows of the whole as the values of each part. */
export function splitParts({ parts, groups }: ModelParameter, whole: Float32Array): Float32Array[] {
  if (parts.length === 1) return [whole];
  const values = parts.map((part) => new Float32Array(part.size));
  forEachRun(parts, groups, (part, from, to, at) => {
    values[part].set(whole.subarray(at, at + to - from), from);
  });
  return values;
}

function forEachRun(
  parts: Variable[],
  groups: number,
  visit: (part: number, from: number, to: number, at: number) => void,
): void {
  let at = 0;
  for (let group = 0; group < groups; group++) {
    parts.forEach(({ size }, part) => {
      const run = size / groups;
      visit(part, group * run, (group + 1) * run, at);
      at += run;
    });
  }
}

/** Reads the variables back; `name` gives each tensor its name in the file. */
export async function storeParameters(
  parameters: readonly ModelParameter[],
  variablesOf: (parameter: ModelParameter) => Variable[] = ({ parts }) => parts,
  name: (parameter: ModelParameter) => string = (parameter) => parameter.name,
): Promise<Map<string, StoredTensor>> {
  const stored = new Map<string, StoredTensor>();
  for (const parameter of parameters) {
    const values = await Promise.all(variablesOf(parameter).map((part) => part.data<'float32'>()));
    stored.set(name(parameter), storeFloat32(joinParts(parameter, values), parameter.shape));
  }
  return stored;
}

function checkStored(
  parameters: readonly ModelParameter[],
  stored: ReadonlyMap<string, StoredTensor>,
  name: (parameter: ModelParameter) => string,
): void {
  for (const parameter of parameters) {
    const tensorName = name(parameter);
    const { shape } = stored.get(tensorName) ?? fail('checkpoint', `${tensorName} is missing`);
    if (shapeText(shape) !== shapeText(parameter.shape)) {
      fail('checkpoint', `${tensorName} must be ${shapeText(parameter.shape)}, got ${shapeText(shape)}`);
    }
  }
}

/** Writes stored values into the variables. Throws, and writes nothing, if a tensor is missing or has another shape. */
export function restoreParameters(
  parameters: readonly ModelParameter[],
  stored: ReadonlyMap<string, StoredTensor>,
  variablesOf: (parameter: ModelParameter) => Variable[] = ({ parts }) => parts,
  name: (parameter: ModelParameter) => string = (parameter) => parameter.name,
): void {
  checkStored(parameters, stored, name);
  for (const parameter of parameters) {
    const whole = float32Values(stored.get(name(parameter)) as StoredTensor);
    const values = splitParts(parameter, whole);
    variablesOf(parameter).forEach((part, i) => {
      const value = tensor(values[i], part.shape);
      part.assign(value);
      value.dispose();
    });
  }
}
