/** The ops and their gradients on every device against PyTorch's float64: test/golden, and all of ../shared/golden. */
import * as tf from '@tensorflow/tfjs-core';
// registers the gradients of tfjs's own ops, which the loss is made of
import '@tensorflow/tfjs-layers';
import { mergeStates, mlaAttention, mlaDecode } from '../src/index.js';
import '../src/webgpu.js';
import { expectClose } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import type { Device } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { boundsOf, goldenFolders, isLater, maskOf, readManifest, readTensors } from './support/golden.js';
import type { GoldenEntry, GoldenKind, GoldenPrecision } from './support/golden.js';
import type { DataByName } from './support/inputs.js';
import { allowSavedTensors, isPage, read, toTensors } from './support/onDevice.js';

type Outputs = Record<'out' | 'lse', tf.Tensor>;

/** An op on a golden case: the files' names of its inputs and of their gradients, and the call. */
interface GoldenCall {
  inputs: string[];
  gradients: string[];
  run: (...inputs: tf.Tensor[]) => Outputs;
}

const calls: Record<GoldenKind, (entry: GoldenEntry, precision: GoldenPrecision) => GoldenCall> = {
  attention: (entry, precision) => {
    const { layout, scale } = entry.attrs;
    const { causal, window, qLengths, kvLengths } = maskOf(entry);
    const options = {
      layout: layout as 'bshd',
      softmaxScale: scale ?? undefined,
      causal,
      window,
      qLengths,
      kvLengths,
      precision,
    };
    const isSplit = entry.kForm === 'split';
    return {
      inputs: isSplit ? ['q', 'k_nope', 'v', 'k_rope'] : ['q', 'k', 'v'],
      gradients: isSplit ? ['dq', 'dk_nope', 'dv', 'dk_rope'] : ['dq', 'dk', 'dv'],
      run: (q, k, v, kRope?) =>
        mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {
          ...options,
          kRope: kRope as tf.Tensor3D | undefined,
          returnLse: true,
        }),
    };
  },
  decode: (entry, precision) => {
    const { causal, kvLengths } = maskOf(entry);
    const softmaxScale = entry.attrs.scale as number;
    return {
      inputs: ['q_latent', 'q_rope', 'c_kv', 'k_rope'],
      gradients: ['dq_latent', 'dq_rope', 'dc_kv', 'dk_rope'],
      run: (qLatent, qRope, cKv, kRope) =>
        mlaDecode(qLatent as tf.Tensor4D, qRope as tf.Tensor4D, cKv as tf.Tensor3D, kRope as tf.Tensor3D, {
          softmaxScale,
          causal,
          kvLengths,
          precision,
          returnLse: true,
        }),
    };
  },
  merge: () => ({
    inputs: ['out1', 'lse1', 'out2', 'lse2'],
    gradients: ['dout1', 'dlse1', 'dout2', 'dlse2'],
    run: (out1, lse1, out2, lse2) =>
      mergeStates([
        { out: out1 as tf.Tensor4D, lse: lse1 as tf.Tensor3D },
        { out: out2 as tf.Tensor4D, lse: lse2 as tf.Tensor3D },
      ]),
  }),
};

async function compareWithGolden(
  kind: GoldenKind,
  entry: GoldenEntry,
  data: DataByName,
  precision: GoldenPrecision,
): Promise<void> {
  const { inputs: inputNames, gradients, run } = calls[kind](entry, precision);
  const before = tf.memory().numTensors;
  const inputs = toTensors(data, inputNames);
  const expect = async (name: string, tensor: tf.Tensor): Promise<void> =>
    expectClose(name, await read(tensor), data[`expected.${name}`], boundsOf(entry, name, precision));

  const { out, lse } = run(...inputs);
  await expect('out', out);
  await expect('lse', lse);
  if (data[`expected.${gradients[0]}`]) {
    const [dOut, dLse] = toTensors(data, data.dlse ? ['dout', 'dlse'] : ['dout']);
    const loss = (...given: tf.Tensor[]): tf.Tensor => {
      const state = run(...given);
      const ofOut = tf.sum(tf.mul(state.out, dOut));
      return dLse ? tf.add(ofOut, tf.sum(tf.mul(state.lse, dLse))) : ofOut;
    };
    const got = tf.grads(loss)(inputs);
    for (const [index, name] of gradients.entries()) await expect(name, got[index]);
    tf.dispose([dOut, dLse, ...got]);
  }
  tf.dispose([out, lse, ...inputs]);
  expectEqual(tf.memory().numTensors, before, 'tensors left');
}

const folders = await Promise.all(
  Object.entries(goldenFolders).map(async ([title, folder]) => {
    const kinds = await Promise.all(
      (['attention', 'decode', 'merge'] as const).map(async (kind) => ({
        kind,
        entries: await readManifest(folder, kind),
      })),
    );
    return { title, folder, kinds };
  }),
);

/** Of all the files, those that test/golden has too are not run twice. */
const [part, whole] = folders;
for (const [index, { entries }] of part.kinds.entries()) {
  const rest = whole.kinds[index].entries?.filter(
    ({ name }) => !entries?.some((entry) => entry.name === name),
  );
  whole.kinds[index].entries = rest;
}

/** What a software GPU in a browser does: a second to compile each shader adds up. */
const inSoftwarePage = [
  ...['mqa-6-1-sbhd', 'split-rope-masked-rows', 'dlse-masked-rows-bhsd', 'tiny-64-16', 'dlse'],
  ...['random', 'one-side-empty', 'both-empty', 'split-keys'],
];

function whySkipped(entry: GoldenEntry, { backend, isSoftware }: Device, folder: string): string | undefined {
  if (isLater(entry)) return `${entry.tags.join(', ')}: of a later version`;
  if (backend !== 'webgpu' || !isSoftware) return undefined;
  if (folder === goldenFolders.whole) return 'runs on hardware and on the CPU backends';
  return isPage && !inSoftwarePage.includes(entry.name) ? 'runs in Node' : undefined;
}

/** Where halves are computed with; a software GPU has the table for the rest. */
function runsInHalves({ tags }: GoldenEntry, kind: GoldenKind, { backend, isSoftware }: Device): boolean {
  return backend === 'webgpu' && kind !== 'merge' && (!isSoftware || tags.includes('stress'));
}

describe('golden files', () => {
  allowSavedTensors();

  for (const { title, folder, kinds } of folders) {
    describe(title === 'part' ? 'test/golden' : 'the rest of ../shared/golden', () => {
      onEachDevice((device) => {
        for (const { kind, entries } of kinds) {
          if (!entries) it.skip(`${kind}: not beside this clone`);
          for (const entry of entries ?? []) {
            const name = `${kind}: ${entry.name}`;
            const reason = whySkipped(entry, device, folder);
            const compare = async (precision: GoldenPrecision): Promise<void> =>
              compareWithGolden(kind, entry, await readTensors(folder, kind, entry), precision);
            if (reason) it.skip(`${name} (${reason})`);
            else it(name, () => compare('float32'));
            if (runsInHalves(entry, kind, device) && !reason) {
              it(`${name}, precision 'float16'`, () => compare('float16'));
            }
          }
        }
      });
    });
  }

  it('lie in test/golden at least', () => {
    for (const { kind, entries } of part.kinds) {
      expectTrue(
        (entries?.length ?? 0) >= 4,
        `expected at least four cases of ${kind}, got ${entries?.length}`,
      );
    }
  });
});
