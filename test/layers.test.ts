/** The layers: against composed ops, in tf.model, saved and loaded, with lengths, and the absorbed form. */
import * as tf from '@tensorflow/tfjs-core';
import { input, layers, loadLayersModel, model } from '@tensorflow/tfjs-layers';
import type { LayersModel, SymbolicTensor } from '@tensorflow/tfjs-layers';
import { LatentCache } from '../src/index.js';
import type { CacheFormat } from '../src/index.js';
import {
  MultiHeadLatentAttention,
  RMSNorm,
  RotaryEmbedding,
  SwiGLU,
  TokenEmbedding,
  crossEntropy,
  embed,
  rmsNorm,
} from '../src/layers.js';
import type { MultiHeadLatentAttentionArgs } from '../src/layers.js';
import '../src/webgpu.js';
import { addRmsNorm } from '../src/layers/rmsNorm.js';
import { expectClose, forwardBounds, forwardFloat16Bounds, gradientBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectThrows, expectTrue } from './support/expect.js';
import { allowSavedTensors, read } from './support/onDevice.js';
import { tileProductsInSoftware } from './support/products.js';

const sizes: MultiHeadLatentAttentionArgs = {
  numHeads: 3,
  qkNopeHeadDim: 6,
  qkRopeHeadDim: 4,
  vHeadDim: 5,
  kvLoraRank: 8,
  initializerRange: 0.4,
  seed: 3,
};

const variants: Record<string, Partial<MultiHeadLatentAttentionArgs>> = {
  'queries straight from the input': {},
  'queries by a latent, biases, halves': { qLoraRank: 7, attentionBias: true, ropeInterleave: false },
  YaRN: {
    ropeScaling: {
      type: 'yarn',
      factor: 8,
      originalMaxPositionEmbeddings: 4,
      mscale: 0.7,
      mscaleAllDim: 1.2,
    },
  },
};

const hidden = 9;

function builtLayer(args: Partial<MultiHeadLatentAttentionArgs> = {}): MultiHeadLatentAttention {
  const layer = new MultiHeadLatentAttention({ ...sizes, ...args });
  layer.build([null, null, hidden]);
  return layer;
}

function randomInput(b: number, s: number): tf.Tensor3D {
  return tf.randomNormal([b, s, hidden], 0, 1, 'float32', 11);
}

function cacheFor(
  layer: MultiHeadLatentAttention,
  batch: number,
  capacity: number,
  storage?: CacheFormat,
): LatentCache {
  const { kvLoraRank: latentRank, qkRopeHeadDim: ropeDim } = layer.config;
  return new LatentCache({ batch, capacity, latentRank, ropeDim, storage });
}

describe('layers', () => {
  allowSavedTensors();
  onEachDevice((device) => {
    tileProductsInSoftware(device);

    describe('MultiHeadLatentAttention', () => {
      for (const [name, args] of Object.entries(variants)) {
        it(`the absorbed form is the full form: ${name}`, async () => {
          const layer = builtLayer(args);
          const x = randomInput(2, 7);
          const full = layer.call(x);
          const [stepped, prefilled] = [cacheFor(layer, 2, 7), cacheFor(layer, 2, 9)];
          const at = (start: number, count: number): tf.Tensor3D =>
            tf.slice3d(x, [0, start, 0], [2, count, hidden]);
          const bySteps = tf.tidy(() =>
            tf.concat(
              [layer.step(at(0, 1), stepped), layer.step(at(1, 1), stepped), layer.step(at(2, 5), stepped)],
              1,
            ),
          );
          const byPrefill = tf.tidy(() =>
            tf.concat([layer.prefill(at(0, 5), prefilled), layer.step(at(5, 2), prefilled)], 1),
          );
          expectEqual(
            [stepped.lengths, prefilled.lengths],
            [
              [7, 7],
              [7, 7],
            ],
            'lengths',
          );
          expectClose('steps', await read(bySteps), await read(full), forwardBounds);
          expectClose('prefill and steps', await read(byPrefill), await read(full), forwardBounds);
          stepped.dispose();
          prefilled.dispose();
          tf.dispose([x, full, bySteps, byPrefill]);
          layer.rope.dispose();
        });
      }

      if (device.backend !== 'tensorflow') {
        it('a packed cache gives nearly the same', async () => {
          const layer = builtLayer();
          const x = randomInput(2, 5);
          const full = layer.call(x);
          const cache = cacheFor(layer, 2, 5, 'float16');
          const stepped = tf.tidy(() => {
            const [first, rest] = tf.split<tf.Tensor3D>(x, [3, 2], 1);
            return tf.concat([layer.prefill(first, cache), layer.step(rest, cache)], 1);
          });
          expectClose('prefill and step', await read(stepped), await read(full), forwardFloat16Bounds);
          cache.dispose();
          tf.dispose([x, full, stepped]);
          layer.rope.dispose();
        });
      }

      it('lengths hide the padding, as a mask and as an input', async () => {
        const layer = builtLayer();
        const x = randomInput(2, 6);
        const poisoned = tf.tidy(() =>
          tf.concat([tf.slice3d(x, [0, 0, 0], [2, 4, hidden]), tf.fill([2, 2, hidden], 1e3)], 1),
        );
        const lengths = tf.tensor1d([4, 3], 'int32');
        const mask = tf.tensor2d([1, 1, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0], [2, 6], 'bool');
        const byLengths = layer.call([x, lengths]);
        const byColumn = layer.call([poisoned, tf.tensor2d([4, 3], [2, 1])]);
        const byMask = layer.call(poisoned, { mask });
        expectEqual(await byColumn.data(), await byLengths.data(), 'lengths [b, 1] as float32');
        expectEqual(await byMask.data(), await byLengths.data(), 'mask');
        const rows = (await byLengths.array()) as number[][][];
        expectTrue(
          rows[0]
            .slice(4)
            .flat()
            .every((value) => value === 0),
          'expected 0 in padded rows',
        );
        const alone = layer.call(tf.slice3d(x, [1, 0, 0], [1, 3, hidden]));
        const sameRows = tf.slice3d(byLengths as tf.Tensor3D, [1, 0, 0], [1, 3, hidden]);
        expectClose('entry 1', await read(sameRows), await read(alone), forwardBounds);
      });

      it('trains in tf.model, and gives the same after save and load', async () => {
        const net = attentionModel();
        net.compile({ optimizer: tf.train.adam(0.01), loss: 'meanSquaredError' });
        const x = randomInput(4, 5);
        const y = tf.tidy(() => tf.cumsum(x, 1));
        const epochs = device.backend === 'webgpu' ? 4 : 15;
        const { history } = await net.fit([x, tf.tensor2d([5, 4, 5, 3], [4, 1])], y, { epochs, verbose: 0 });
        const losses = history.loss as number[];
        expectTrue(
          losses[epochs - 1] < 0.9 * losses[0],
          `expected the loss to fall, got ${losses.join(', ')}`,
        );
        const loaded = await saveAndLoad(net);
        const lengths = tf.tensor2d([5, 5, 5, 5], [4, 1]);
        const [before, after] = [net, loaded].map((each) => each.predict([x, lengths]) as tf.Tensor);
        expectEqual(await after.data(), await before.data(), 'prediction');
        const [first, second] = [net, loaded].map((each) => each.getLayer('attention').getConfig());
        expectEqual(second, first, 'config');
      });

      it('reads a mask out of an embedding in tf.model', async () => {
        const ids = input({ shape: [4], dtype: 'int32' });
        const embedded = layers.embedding({ inputDim: 5, outputDim: hidden, maskZero: true }).apply(ids);
        const attended = new MultiHeadLatentAttention(sizes).apply(embedded) as SymbolicTensor;
        const net = model({ inputs: ids, outputs: attended });
        const out = net.predict(tf.tensor2d([1, 2, 0, 0, 3, 4, 1, 2], [2, 4], 'int32')) as tf.Tensor3D;
        const rows = await out.array();
        expectTrue(
          rows[0]
            .slice(2)
            .flat()
            .every((value) => value === 0),
          'expected 0 in padded rows',
        );
        expectTrue(
          rows[1].flat().every((value) => value !== 0),
          'expected values in rows that are kept',
        );
      });
    });

    it('RMSNorm: value and gradients of the composed form', async () => {
      const x = tf.randomNormal([2, 3, 8], 0, 2, 'float32', 1);
      const gain = tf.randomNormal<tf.Rank.R1>([8], 1, 0.3, 'float32', 2);
      const dy = tf.randomNormal([2, 3, 8], 0, 1, 'float32', 3);
      const composed = (a: tf.Tensor, g: tf.Tensor): tf.Tensor =>
        tf.mul(tf.mul(a, tf.rsqrt(tf.add(tf.mean(tf.square(a), -1, true), 0.01))), g);
      const ours = (a: tf.Tensor, g: tf.Tensor): tf.Tensor => rmsNorm(a, g as tf.Tensor1D, 0.01);
      expectClose('value', await read(ours(x, gain)), await read(composed(x, gain)), forwardBounds);
      const gradients = (f: typeof ours): tf.Tensor[] => tf.grads((a, g) => f(a, g))([x, gain], dy);
      const [got, expected] = [gradients(ours), gradients(composed)];
      expectClose('dx', await read(got[0]), await read(expected[0]), gradientBounds);
      expectClose('dGain', await read(got[1]), await read(expected[1]), gradientBounds);
    });

    for (const isSum of [true, false]) {
      it(`RMSNorm of ${isSum ? 'x + addend' : 'x'}, with and without that sum: the composed form`, async () => {
        const [x, addend, dy] = [1, 2, 3].map((seed) => tf.randomNormal([6, 8], 0, 2, 'float32', seed));
        const inputs = [x, tf.randomNormal([8], 1, 0.3, 'float32', 4), ...(isSum ? [addend] : [])];
        const composed = (sum: tf.Tensor, g: tf.Tensor): tf.Tensor =>
          tf.mul(tf.mul(sum, tf.rsqrt(tf.add(tf.mean(tf.square(sum), -1, true), 0.01))), g);
        const plus = (a: tf.Tensor, b?: tf.Tensor): tf.Tensor => (b ? tf.add(a, b) : a);
        // of the norm alone; of both
        const ours = [
          (a: tf.Tensor, g: tf.Tensor, b?: tf.Tensor) => rmsNorm(a, g as tf.Tensor1D, 0.01, b),
          (a: tf.Tensor, g: tf.Tensor, b?: tf.Tensor) => {
            const { normed, sum } = addRmsNorm(
              a as tf.Tensor2D,
              g as tf.Tensor1D,
              0.01,
              b as tf.Tensor2D | undefined,
            );
            return tf.mul(normed, tf.sin(sum));
          },
        ];
        const right = [
          (a: tf.Tensor, g: tf.Tensor, b?: tf.Tensor) => composed(plus(a, b), g),
          (a: tf.Tensor, g: tf.Tensor, b?: tf.Tensor) => tf.mul(composed(plus(a, b), g), tf.sin(plus(a, b))),
        ];
        for (const [i, form] of ours.entries()) {
          const [got, expected] = [form, right[i]].map((f) => tf.valueAndGrads(f)(inputs, dy));
          expectClose('value', await read(got.value), await read(expected.value), forwardBounds);
          for (const [n, gradient] of got.grads.entries()) {
            expectClose(`gradient ${n}`, await read(gradient), await read(expected.grads[n]), gradientBounds);
          }
        }
      });
    }

    if (device.backend === 'tensorflow') {
      it('norms add what comes between them: neither forward nor backward is there another Add', async () => {
        const gain = tf.ones<tf.Rank.R1>([8]);
        const blocks = (x: tf.Tensor): tf.Tensor => {
          let { normed, sum } = addRmsNorm(x as tf.Tensor2D, gain, 0.01);
          for (let i = 0; i < 3; i++) ({ normed, sum } = addRmsNorm(sum, gain, 0.01, tf.exp(normed)));
          return rmsNorm(sum, gain, 0.01, tf.exp(normed));
        };
        const { kernels } = await tf.profile(() => tf.grad(blocks)(tf.ones([6, 8])));
        const countOf = (kernel: string): number => kernels.filter(({ name }) => name === kernel).length;
        const counts = ['MLARMSNorm', 'MLARMSNormBackward', 'Add'].map(countOf);
        expectEqual(counts, [5, 5, 0], 'kernels');
      });
    }

    it('RotaryEmbedding turns pairs, by neighbours and by halves, and its gradient turns back', async () => {
      const x = tf.tensor4d([1, 2, 3, 4], [1, 1, 1, 4]);
      const [angle, slow] = [3, 3 / 100];
      const turned = (a: number, b: number, by: number): number[] => [
        a * Math.cos(by) - b * Math.sin(by),
        b * Math.cos(by) + a * Math.sin(by),
      ];
      const [e0, e1] = turned(1, 2, angle);
      const [e2, e3] = turned(3, 4, slow);
      const [h0, h2] = turned(1, 3, angle);
      const [h1, h3] = turned(2, 4, slow);
      for (const [ropeInterleave, values] of [
        [true, [e0, e1, e2, e3]],
        [false, [h0, h1, h2, h3]],
      ] as const) {
        const rope = new RotaryEmbedding({ dim: 4, ropeInterleave });
        const tables = rope.at([3], 1);
        expectClose('turned', await read(rope.rotate(x, tables)), { shape: x.shape, values }, forwardBounds);
        const back = tf.grad((a) => rope.rotate(a as tf.Tensor4D, tables))(x, rope.rotate(x, tables));
        expectClose('gradient', await read(back), await read(x), gradientBounds);
        rope.dispose();
      }
    });

    it('rotary tables: own positions for every entry, made once, freed', async () => {
      const rope = new RotaryEmbedding({ dim: 6 });
      const { numTensors } = tf.memory();
      const shared = rope.at([2, 2], 3);
      expectEqual(shared.cos.shape, [1, 3, 1, 6]);
      expectTrue(rope.at([2], 3) === shared, 'expected the same tables for the same positions');
      const own = rope.at([2, 4], 3);
      expectEqual(own.cos.shape, [2, 3, 1, 6]);
      expectTrue(shared.cos.isDisposed, 'expected the tables before to be freed');
      const later = (await own.sin.array())[1];
      expectEqual(later, (await rope.at([4], 3).sin.array())[0], 'entry 1');
      rope.dispose();
      expectEqual(tf.memory().numTensors, numTensors, 'tensors');
    });

    it('TokenEmbedding: the rows, and the gradient that gather has', async () => {
      const table = tf.randomNormal<tf.Rank.R2>([7, 4], 0, 1, 'float32', 1);
      const ids = tf.tensor2d([1, 6, 1, 0, 1, 3], [2, 3], 'int32');
      const dy = tf.randomNormal([2, 3, 4], 0, 1, 'float32', 2);
      const rows = embed(table, ids);
      expectEqual(await rows.data(), await tf.gather(table, ids).data(), 'rows');
      const got = tf.grad((t) => embed(t as tf.Tensor2D, ids))(table, dy);
      const chosen = tf.oneHot(tf.reshape(ids, [6]), 7);
      const expected = tf.matMul(tf.cast(chosen, 'float32'), tf.reshape(dy, [6, 4]), true);
      expectClose('dTable', await read(got), await read(expected), gradientBounds);
    });

    it('crossEntropy: value and gradient of the composed form, large logits included', async () => {
      const logits = tf.mul(tf.randomNormal([2, 3, 5], 0, 1, 'float32', 1), 40);
      const labels = tf.tensor2d([0, 4, 2, 2, 1, 3], [2, 3], 'int32');
      const composed = (a: tf.Tensor): tf.Tensor =>
        tf.neg(tf.mean(tf.sum(tf.mul(tf.logSoftmax(a), tf.oneHot(labels, 5)), -1)));
      const ours = (a: tf.Tensor): tf.Tensor => crossEntropy(a, labels);
      expectClose('value', await read(ours(logits)), await read(composed(logits)), forwardBounds);
      const [got, expected] = [ours, composed].map((f) => tf.grad(f)(logits));
      expectClose('dLogits', await read(got), await read(expected), gradientBounds);
    });

    it('no layer leaves a tensor behind', async () => {
      const layer = builtLayer();
      const [norm, feedForward] = [new RMSNorm(), new SwiGLU({ intermediateSize: 5 })];
      for (const other of [norm, feedForward]) other.build([null, null, hidden]);
      const x = randomInput(1, 3);
      const run = (): void => {
        const gradients = tf.grad((a) => layer.call(feedForward.call(norm.call(a))))(x);
        gradients.dispose();
      };
      run();
      const { numTensors } = tf.memory();
      run();
      expectEqual(tf.memory().numTensors, numTensors, 'tensors');
    });
  });

  describe('on cpu', () => {
    before(() => tf.setBackend('cpu'));

    it('MultiHeadLatentAttention: bad sizes are named', () => {
      const make = (args: object) => () => new MultiHeadLatentAttention({ ...sizes, ...args });
      expectThrows(
        make({ numHeads: 0 }),
        'MultiHeadLatentAttention: numHeads must be a positive integer, got 0',
      );
      expectThrows(
        make({ vHeadDim: undefined }),
        'MultiHeadLatentAttention: vHeadDim must be a positive integer, got undefined',
      );
      expectThrows(
        make({ qLoraRank: 1.5 }),
        'MultiHeadLatentAttention: qLoraRank must be a positive integer, got 1.5',
      );
      expectThrows(make({ qkRopeHeadDim: 3 }), 'MultiHeadLatentAttention: qkRopeHeadDim must be even, got 3');
      expectThrows(
        make({ ropeScaling: { type: 'linear', factor: 2, originalMaxPositionEmbeddings: 4 } }),
        "RotaryEmbedding: ropeScaling.type must be 'yarn', got linear",
      );
      expectThrows(
        make({ ropeScaling: { type: 'yarn', factor: 0, originalMaxPositionEmbeddings: 4 } }),
        'RotaryEmbedding: ropeScaling.factor must be a positive number, got 0',
      );
      expectThrows(
        () => new RotaryEmbedding({ dim: 5 }),
        'RotaryEmbedding: dim must be a positive even integer, got 5',
      );
      expectThrows(
        () => new SwiGLU({ intermediateSize: -1 }),
        'SwiGLU: intermediateSize must be a positive integer, got -1',
      );
      expectThrows(
        () => new TokenEmbedding({ vocabSize: 3, hiddenSize: 0 }),
        'TokenEmbedding: hiddenSize must be a positive integer, got 0',
      );
      expectThrows(() => {
        new RMSNorm().build([null, null]);
      }, 'RMSNorm: the last axis of the input must be known, got [null,null]');
    });

    it('MultiHeadLatentAttention: bad inputs, masks and lengths are named', () => {
      const layer = builtLayer({ validateMask: true });
      const x = randomInput(2, 3);
      expectThrows(
        () => layer.call(tf.zeros([2, hidden])),
        `MultiHeadLatentAttention: the input must be [b, s, hidden], got [2, ${hidden}]`,
      );
      expectThrows(
        () => layer.call(tf.zeros([4, hidden]), { rope: layer.rope.at([0], 3) }),
        `MultiHeadLatentAttention: the input's rows must be a multiple of the tables' s=3, got [4, ${hidden}]`,
      );
      expectThrows(
        () => new MultiHeadLatentAttention(sizes).call(x),
        'MultiHeadLatentAttention: weight kv_a_proj_latent is missing: build the layer first',
      );
      expectThrows(
        () => layer.call([x, tf.tensor1d([1, 2, 3])]),
        'MultiHeadLatentAttention: lengths must be [b=2] or [b=2, 1], got [3]',
      );
      expectThrows(
        () => layer.call(x, { mask: tf.ones([2, 4], 'bool') }),
        'MultiHeadLatentAttention: mask must be [b=2, s=3], got [2, 4] (tfjs-layers hands a mask on to later layers of other branches: there, give the lengths as a second input)',
      );
      expectThrows(
        () => layer.call(x, { mask: tf.tensor2d([1, 1, 0, 1, 0, 1], [2, 3], 'bool') }),
        'MultiHeadLatentAttention: mask must be right-padded: row 1 keeps position 2 after a masked one',
      );
      layer.call(x, { mask: tf.tensor2d([1, 1, 0, 0, 0, 0], [2, 3], 'bool') });
      const cache = cacheFor(layer, 2, 4);
      layer.step(x, cache);
      expectThrows(
        () => layer.step(x, cache),
        'LatentCache.append: batch entry 0 holds 3 of capacity=4 rows, 3 more do not fit',
      );
      expectEqual(cache.lengths, [3, 3], 'lengths after a refused step');
      expectThrows(
        () => layer.prefill(x, cache),
        'MultiHeadLatentAttention: prefill needs an empty cache, got lengths [3, 3]',
      );
    });

    it('MultiHeadLatentAttention: rows and their tables give the same as [b, s, hidden]', async () => {
      const layer = builtLayer();
      const x = randomInput(2, 3);
      const expected = await read(layer.call(x));
      const got = await read(layer.call(tf.reshape(x, [6, hidden]), { rope: layer.rope.at([0], 3) }));
      expectEqual(got, { ...expected, shape: [6, hidden] });
    });

    it('a gradient frees at once what it computes on its way', async () => {
      const size = 64;
      const x = tf.ones<tf.Rank.R2>([size, size]);
      const gain = tf.ones<tf.Rank.R1>([size]);
      const peakOf = async (norms: number): Promise<number> => {
        const normed = (a: tf.Tensor): tf.Tensor =>
          Array.from({ length: norms }).reduce<tf.Tensor>((rows) => rmsNorm(rows, gain, 0.01), a);
        return (await tf.profile(() => tf.grad(normed)(x))).peakBytes;
      };
      const matrices = ((await peakOf(10)) - (await peakOf(5))) / x.size / 4;
      // of each norm tfjs keeps the input, the gradient and a column until the end
      expectTrue(
        matrices < 5 * 2.5,
        `expected fewer than 12.5 matrices more for five norms, got ${matrices}`,
      );
    });

    it('crossEntropy: bad labels are named', () => {
      expectThrows(
        () => crossEntropy(tf.zeros([2, 3, 5]), tf.zeros([2, 2], 'int32')),
        'crossEntropy: labels must be int32 [2, 3], got int32 [2, 2]',
      );
      expectThrows(
        () => crossEntropy(tf.zeros([2, 5]), tf.zeros([2])),
        'crossEntropy: labels must be int32 [2], got float32 [2]',
      );
    });

    it('a training step of the layer: four kernels, no scores, no transpose', async () => {
      const layer = builtLayer();
      const [s, x] = [13, randomInput(2, 13)];
      const { kernels } = await tf.profile(() => tf.grad((a) => layer.call(a))(x));
      const names = kernels.map(({ name }) => name);
      for (const name of ['MLAAttention', 'MLADelta', 'MLAAttentionDq', 'MLAAttentionDkv']) {
        expectEqual(names.filter((other) => other === name).length, 1, name);
      }
      const isScores = (shape: number[]): boolean =>
        shape.length >= 2 && shape.slice(-2).every((n) => n === s);
      const scores = kernels.filter(({ outputShapes }) => outputShapes.some((shape) => isScores(shape)));
      expectEqual(
        scores.map(({ name }) => name),
        [],
        'kernels with outputs [..., s, s]',
      );
      expectEqual(
        names.filter((name) => name === 'Transpose' || name === 'Tile'),
        [],
        'copies',
      );
    });
  });
});

/** lengths and x → attention between norms and a feed-forward part. */
function attentionModel(): LayersModel {
  const x = input({ shape: [5, hidden] });
  const lengths = input({ shape: [1] });
  const normed = new RMSNorm().apply(x) as SymbolicTensor;
  const attention = new MultiHeadLatentAttention({
    ...sizes,
    ...variants.YaRN,
    qLoraRank: 7,
    attentionBias: true,
    name: 'attention',
  });
  const attended = layers
    .add()
    .apply([x, attention.apply([normed, lengths]) as SymbolicTensor]) as SymbolicTensor;
  const out = new SwiGLU({ intermediateSize: 12, initializerRange: 0.3, seed: 4 }).apply(
    attended,
  ) as SymbolicTensor;
  return model({ inputs: [x, lengths], outputs: out });
}

async function saveAndLoad(net: LayersModel): Promise<LayersModel> {
  let saved: tf.io.ModelArtifacts | undefined;
  await net.save(
    tf.io.withSaveHandler(async (artifacts) => {
      // as a file would hold it
      saved = { ...artifacts, modelTopology: JSON.parse(JSON.stringify(artifacts.modelTopology)) as object };
      return { modelArtifactsInfo: { dateSaved: new Date(), modelTopologyType: 'JSON' } };
    }),
  );
  return loadLayersModel(tf.io.fromMemory(saved as tf.io.ModelArtifacts));
}
