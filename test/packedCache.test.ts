/** A LatentCache of storage 'float16': what it rounds, what mlaDecode makes of it, and who refuses it. */
import * as tf from '@tensorflow/tfjs-core';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { compiledKeys } from '../kernels/webgpu/pipeline.js';
import { float16Value, unpackFloat16 } from '../src/core/float16.js';
import { LatentCache, explain, mlaDecode, warmup } from '../src/index.js';
import '../src/webgpu.js';
import { decodeCases } from './cases.js';
import type { DecodeCase } from './cases.js';
import { answersOf, runReference } from './support/answers.js';
import {
  expectClose,
  expectSameBits,
  forwardBounds,
  forwardFloat16Bounds,
  gradientBounds,
  gradientFloat16Bounds,
} from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectThrows, expectTrue } from './support/expect.js';
import { nearestFloat16 } from './support/float16.js';
import { normals, uniforms } from './support/inputs.js';
import type { DataByName } from './support/inputs.js';
import { lossOf, runOp } from './support/losses.js';
import { itForEach, poisoned, read, toTensors } from './support/onDevice.js';

const names = [
  'deepseek, ragged',
  'largest row',
  'no rope',
  'even columns',
  'two tokens, sbhd',
  'four tokens, ragged',
  'top left',
  'window',
];
const chosen = decodeCases.filter(({ name }) => names.includes(name));

/** The case's rows in a cache of as many, with NaN in those past its lengths. */
function cacheOf(c: DecodeCase, data: DataByName): LatentCache {
  const { b, skv, r, rr, kvLengths } = c;
  const cache = new LatentCache({
    batch: b,
    capacity: skv,
    latentRank: r,
    ropeDim: rr,
    storage: 'float16',
  });
  const [cKv, kRope] = toTensors(poisoned(c, data), ['cKv', 'kRope']) as tf.Tensor3D[];
  cache.append(cKv, kRope);
  if (kvLengths) cache.truncate(kvLengths);
  tf.dispose([cKv, kRope]);
  return cache;
}

/** The same inputs with a rounded cache, and what the reference makes of them: sums in float64, nothing packed. */
function roundedAnswersOf(c: DecodeCase): DataByName {
  const { problem, tensors } = answersOf(c);
  const rounded = Object.fromEntries(
    ['cKv', 'kRope'].map((name) => {
      const { values } = tensors[name];
      return [name, { ...tensors[name], values: Float32Array.from(values, nearestFloat16) }];
    }),
  );
  const data = { ...tensors, ...rounded };
  for (const kernel of ['MLADecode', 'MLADelta', 'MLADecodeDq'] as const) {
    Object.assign(data, runReference(kernel, data, problem));
  }
  return data;
}

/** Numbers of all sizes, those half-way between two float16 and next to that among them. */
function numbersToRound(): Float32Array {
  const random = uniforms('float16');
  const ofAllSizes = Array.from({ length: 20_000 }, () => (random() - 0.5) * 2 ** (60 * random() - 35));
  const halves = Array.from(
    { length: 0x7bff },
    (_, bits) => (float16Value(bits) + float16Value(bits + 1)) / 2,
  );
  const beside = halves.flatMap((x) => [x, x * (1 + 2 ** -23), x * (1 - 2 ** -23)]);
  const ends = [65504, 65519.996, 65520, 65536, 3.4e38, 2 ** -24, 2 ** -25, 2 ** -26, 1e-45, 0];
  const all = [...ofAllSizes, ...beside, ...ends];
  return Float32Array.from([...all, ...all.map((x) => -x), Infinity, -Infinity, NaN]);
}

/** Appends numbers to a cache of one row, padded with zeros to whole words, and reads its tensor. */
async function packed(numbers: Float32Array): Promise<Int32Array> {
  const latentRank = Math.ceil(numbers.length / 2) * 2;
  const row = new Float32Array(latentRank);
  row.set(numbers);
  const cache = new LatentCache({ batch: 1, capacity: 1, latentRank, ropeDim: 0, storage: 'float16' });
  const [cKv, kRope] = [tf.tensor3d(row, [1, 1, latentRank]), tf.zeros<tf.Rank.R3>([1, 1, 0])];
  cache.append(cKv, kRope);
  const words = await cache.cKv.data<'int32'>();
  cache.dispose();
  tf.dispose([cKv, kRope]);
  return words;
}

const allHalves = Float32Array.from({ length: 65536 }, (_, bits) => float16Value(bits));
const shapes = { qLatent: [1, 2, 3, 44], qRope: [1, 2, 3, 12], cKv: [1, 9, 22], kRope: [1, 9, 6] };

describe("LatentCache of storage 'float16'", () => {
  it('is tested on cases that exist', () => expectEqual(chosen.length, names.length));

  onEachDevice((device) => {
    if (device.backend === 'tensorflow') {
      it('is refused before anything is allocated', () => {
        const before = tf.memory().numTensors;
        const supported = "supported on backend 'tensorflow': 'float32'";
        const missing = "missing: kernels for that format. storage 'float32' would work";
        const message = `required: storage 'float16', ${supported}; ${missing}`;
        const sizes = { batch: 1, capacity: 4, latentRank: 8, ropeDim: 4 };
        expectThrows(() => new LatentCache({ ...sizes, storage: 'float16' }), `LatentCache: ${message}`);
        const call = { ...shapes, cacheFormat: 'float16' as const };
        expectThrows(() => explain('mlaDecode', call, { softmaxScale: 1 }), `explain: ${message}`);
        expectEqual(tf.memory().numTensors, before, 'tensors left');
      });
      return;
    }

    it('keeps every float16 as it is', async () => {
      const words = await packed(allHalves);
      const bits = new Uint16Array(words.buffer, words.byteOffset, 65536);
      for (let half = 0; half < 65536; half++) {
        if (Number.isNaN(allHalves[half])) expectTrue(Number.isNaN(float16Value(bits[half])), `NaN ${half}`);
        else if (bits[half] !== half) throw new Error(`expected ${half}, got ${bits[half]}`);
      }
    });

    it('rounds to the nearest, ties to even, and nothing finite to infinity', async () => {
      const numbers = numbersToRound();
      const held = unpackFloat16(await packed(numbers)).subarray(0, numbers.length);
      expectSameBits('rounded', held, numbers.map(nearestFloat16));
    });

    it('is read by mlaDecode without a change of any finite float16', async () => {
      const finite = allHalves.filter(Number.isFinite);
      // a row sees one key, its own: out is that key's latent
      const b = finite.length / 256;
      const cache = new LatentCache({
        ...{ batch: b, capacity: 1, latentRank: 256, ropeDim: 0 },
        storage: 'float16',
      });
      const out = tf.tidy(() => {
        cache.append(tf.tensor3d(finite, [b, 1, 256]), tf.zeros([b, 1, 0]));
        const [qLatent, qRope] = [tf.zeros<tf.Rank.R4>([b, 1, 1, 256]), tf.zeros<tf.Rank.R4>([b, 1, 1, 0])];
        return mlaDecode(qLatent, qRope, cache.cKv, cache.kRope, { softmaxScale: 1 });
      });
      // -0 comes back as 0 from a sum
      const expected = finite.map((x) => x + 0);
      expectSameBits('out', await out.data(), expected);
      out.dispose();
      cache.dispose();
    });

    it('takes half the memory', () => {
      const bytesOf = (storage: 'float32' | 'float16'): number[] => {
        const before = tf.memory().numBytes;
        const cache = new LatentCache({ batch: 2, capacity: 30, latentRank: 64, ropeDim: 16, storage });
        const bytes = [cache.bytes, tf.memory().numBytes - before];
        cache.dispose();
        return bytes;
      };
      const [float32, float16] = [bytesOf('float32'), bytesOf('float16')];
      expectEqual(
        [float32, float16],
        [
          [19200, 19200],
          [9600, 9600],
        ],
      );
    });

    describe('gives the numbers of the rounded rows, and nearly those of the rows', () => {
      itForEach(chosen, device, async (c) => {
        const { tensors } = answersOf(c);
        const rounded = roundedAnswersOf(c);
        const before = tf.memory().numTensors;
        const cache = cacheOf(c, tensors);
        const queries = toTensors(tensors, ['qLatent', 'qRope']);
        const { out, lse } = runOp(c, [...queries, cache.cKv, cache.kRope]);
        for (const [name, tensor] of Object.entries({ out, lse })) {
          expectClose(`${name}, rounded`, await read(tensor), rounded[name], forwardBounds);
          expectClose(name, await read(tensor), tensors[name], forwardFloat16Bounds);
        }
        const loss = (...given: tf.Tensor[]): tf.Scalar =>
          lossOf(c, tensors, [...given, cache.cKv, cache.kRope]);
        const [dQLatent, dQRope] = tf.grads(loss)(queries);
        for (const [name, tensor] of Object.entries({ dQLatent, dQRope })) {
          expectClose(`${name}, rounded`, await read(tensor), rounded[name], gradientBounds);
          expectClose(name, await read(tensor), tensors[name], gradientFloat16Bounds);
        }
        cache.dispose();
        tf.dispose([out, lse, dQLatent, dQRope, ...queries]);
        expectEqual(tf.memory().numTensors, before, 'tensors left');
      });
    });

    it('has no gradient, and none is computed', async () => {
      const random = normals('packed gradient');
      const cache = new LatentCache({
        ...{ batch: 1, capacity: 5, latentRank: 8, ropeDim: 4 },
        storage: 'float16',
      });
      const make = (shape: number[]): tf.Tensor =>
        tf.tensor(Array.from({ length: shape.reduce((size, n) => size * n, 1) }, random), shape);
      const [qLatent, qRope, cKv, kRope] = [
        [1, 2, 3, 8],
        [1, 2, 3, 4],
        [1, 5, 8],
        [1, 5, 4],
      ].map(make);
      cache.append(cKv as tf.Tensor3D, kRope as tf.Tensor3D);
      const decode = (...[latent, rope, c, k]: tf.Tensor[]): tf.Tensor =>
        mlaDecode(latent as tf.Tensor4D, rope as tf.Tensor4D, c as tf.Tensor3D, k as tf.Tensor3D, {
          softmaxScale: 0.3,
        });
      const { kernels, result } = await tf.profile(() =>
        tf.grads((latent, rope) => decode(latent, rope, cache.cKv, cache.kRope))([qLatent, qRope]),
      );
      const ours = kernels.map(({ name }) => name).filter((name) => name.startsWith('MLA'));
      expectEqual(ours, ['MLADecode', 'MLADelta', 'MLADecodeDq']);
      expectThrows(
        () => tf.grads(decode)([qLatent, qRope, cache.cKv, cache.kRope]),
        'Cannot backprop through input cKv. Available gradients found: qLatent,qRope.',
      );
      cache.dispose();
      tf.dispose([qLatent, qRope, cKv, kRope, result]);
    });

    it('is described to explain and warmup by its format', async () => {
      const call = { ...shapes, cacheFormat: 'float16' as const };
      const options = { softmaxScale: 0.1 };
      const plan = explain('mlaDecode', call, options);
      expectEqual(plan.kernel, 'MLADecode');
      expectThrows(
        () => explain('mlaDecode', call, options, 'MLADecodeDkv'),
        'explain: kernel must be one of MLADelta, MLADecode, MLADecodeDq for mlaDecode, got MLADecodeDkv',
      );
      const steps: string[] = [];
      await warmup([{ op: 'mlaDecode', shapes: call, options }], (done, total) =>
        steps.push(`${done}/${total}`),
      );
      expectEqual(steps, ['1/3', '2/3', '3/3']);
      if (device.backend !== 'webgpu') return;
      const keys = compiledKeys((tf.backend() as WebGPUBackend).device);
      expectTrue(keys.includes(plan.cacheKey), `not compiled: ${plan.cacheKey}`);
      const plain = { ...shapes, cKv: [1, 9, 44], kRope: [1, 9, 12] };
      expectTrue(explain('mlaDecode', plain, options).cacheKey !== plan.cacheKey, 'a pipeline of both');
    });
  });
});
