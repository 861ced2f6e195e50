/** The golden files: PyTorch's float64 results for inputs that it made. */
import { float32Values, readSafetensors } from '../../src/models/safetensors.js';
import type { AttentionCase } from '../cases.js';
import type { Bounds } from './compare.js';
import { readGolden } from './files.js';
import type { Data, DataByName } from './inputs.js';

/** One line of a manifest, as far as the tests read it. */
export interface GoldenEntry {
  name: string;
  file: string;
  attrs: {
    layout?: 'bshd' | 'bhsd' | 'sbhd' | 'thd';
    causal?: boolean;
    scale?: number | null;
    window?: { left: number; right: number } | null;
  };
  dims: Record<string, number>;
  kForm?: 'full' | 'split';
  qLengths?: number[] | null;
  kvLengths?: number[] | null;
  /** decode's name for kvLengths */
  lengths?: number[] | null;
  hasDlse?: boolean;
  tags: string[];
  tolerance: Record<'f32' | 'f16', Record<string, [number | null, number | null] | null>>;
}

export type GoldenKind = 'attention' | 'decode' | 'merge';

/** Where the files are: a small part lies in test/golden, all of them where the project is developed. */
export const goldenFolders = { part: '', whole: '../../../shared/golden/' } as const;

/** The cases of a folder; undefined where it does not exist. */
export async function readManifest(folder: string, kind: GoldenKind): Promise<GoldenEntry[] | undefined> {
  // asking the page's server in vain would be an error on its console
  if (folder === goldenFolders.whole && typeof document !== 'undefined') return undefined;
  const bytes = await readGolden(`${folder}${kind}/manifest.json`).catch(() => undefined);
  if (!bytes) return undefined;
  return (JSON.parse(new TextDecoder().decode(bytes)) as { cases: GoldenEntry[] }).cases;
}

/** Tags of what is not there yet: packed sequences and sinks. */
const laterTags = ['varlen', 'optional'];

export function isLater({ tags }: GoldenEntry): boolean {
  return tags.some((tag) => laterTags.includes(tag));
}

/** All tensors of a case, in float32 (visible_lo and visible_hi in int32), by the files' own names. */
export async function readTensors(folder: string, kind: GoldenKind, entry: GoldenEntry): Promise<DataByName> {
  const { tensors } = readSafetensors(await readGolden(`${folder}${kind}/${entry.file}`), entry.file);
  const read = ([name, stored]: [string, Parameters<typeof float32Values>[0] & { shape: number[] }]): [
    string,
    Data,
  ] => {
    const values = stored.dtype === 'I32' ? Int32Array.from(float32Values(stored)) : float32Values(stored);
    return [name, { axes: '', shape: stored.shape, values }];
  };
  return Object.fromEntries([...tensors].map(read));
}

/** The mask of a golden case of attention or decode, in the words of cases.ts. */
export function maskOf(
  entry: GoldenEntry,
): Pick<AttentionCase, 'b' | 'sq' | 'skv' | 'causal' | 'window' | 'qLengths' | 'kvLengths'> {
  const { attrs, dims, qLengths, kvLengths, lengths } = entry;
  const { left, right } = attrs.window ?? { left: -1, right: -1 };
  return {
    b: dims.B,
    sq: dims.Sq,
    skv: dims.Skv ?? dims.S,
    causal: attrs.causal ? 'bottom-right' : false,
    window: [left, right],
    qLengths: qLengths ?? undefined,
    kvLengths: kvLengths ?? lengths ?? undefined,
  };
}

export type GoldenPrecision = 'float32' | 'float16';

/** The bounds that the manifest gives for one output. */
export function boundsOf(
  { name, tolerance }: GoldenEntry,
  output: string,
  precision: GoldenPrecision = 'float32',
): Bounds {
  const bounds = tolerance[precision === 'float16' ? 'f16' : 'f32'][output];
  if (!bounds) throw new Error(`${name}: the manifest has no ${precision} tolerance for ${output}`);
  return { metric: bounds[0], relativeL2: bounds[1] };
}
