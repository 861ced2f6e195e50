/** Hugging Face checkpoints give Hugging Face's numbers, in full and through the latent cache. */
import * as tf from '@tensorflow/tfjs-core';
import '../src/index.js';
import '../src/webgpu.js';
import {
  DeepseekModel,
  float32Values,
  generate,
  loadDeepseek,
  readConfig,
  readJson,
  readWeights,
  writeConfig,
} from '../src/models.js';
import type { DeepseekConfig, StoredTensor } from '../src/models.js';
import { filesIn, goldenCase, goldenFolder, goldenTensors } from './support/checkpoints.js';
import { expectClose } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectRejects, expectThrows, expectTrue } from './support/expect.js';
import { read } from './support/onDevice.js';
import { tileProductsInSoftware } from './support/products.js';

const goldenModels = ['v3-dense-yarn', 'v3-halves-tied', 'v3-real-heads-bf16'];
const bounds = { metric: 1e-4, relativeL2: 1e-4 };

const tiny: DeepseekConfig = {
  vocabSize: 20,
  hiddenSize: 12,
  intermediateSize: 16,
  numHiddenLayers: 2,
  numAttentionHeads: 2,
  qkNopeHeadDim: 4,
  qkRopeHeadDim: 2,
  vHeadDim: 5,
  kvLoraRank: 6,
  qLoraRank: 7,
  maxPositionEmbeddings: 32,
  ropeTheta: 10000,
  ropeScaling: {
    type: 'yarn',
    factor: 4,
    originalMaxPositionEmbeddings: 8,
    betaFast: 32,
    betaSlow: 1,
    mscale: 0.7,
    mscaleAllDim: 1.2,
  },
  ropeInterleave: false,
  attentionBias: true,
  rmsNormEps: 1e-5,
  tieWordEmbeddings: false,
  initializerRange: 0.3,
  bosTokenId: 1,
  eosTokenId: null,
};

async function tokensOf(generation: AsyncIterable<number>): Promise<number[]> {
  const tokens: number[] = [];
  for await (const token of generation) tokens.push(token);
  return tokens;
}

describe('models', () => {
  onEachDevice((device) => {
    tileProductsInSoftware(device);
    for (const name of goldenModels) {
      describe(name, () => {
        let model: DeepseekModel;
        let expected: Awaited<ReturnType<typeof goldenTensors>>;
        let ids: tf.Tensor2D;
        before(async () => {
          model = await loadDeepseek(goldenFolder(`models/${name}`));
          expected = await goldenTensors(`models/${name}`);
          const { values, shape } = expected('input_ids');
          ids = tf.tensor2d(values, shape as [number, number], 'int32');
        });
        after(() => {
          ids.dispose();
          model.dispose();
        });

        it('logits and hidden states', async () => {
          const logits = model.logits(ids);
          expectClose('logits', await read(logits), expected('logits'), bounds);
          const states = model.hiddenStates(ids);
          for (const [i, state] of states.entries()) {
            expectClose(`hidden.${i}`, await read(state), expected(`hidden.${i}`), bounds);
          }
          tf.dispose([logits, ...states]);
        });

        it('saved again, it is the same checkpoint', async () => {
          const original = await readWeights(goldenFolder(`models/${name}`));
          const files = await model.save();
          const saved = await readWeights(filesIn(files));
          expectEqual([...saved.keys()].sort(), [...original.keys()].sort(), 'names');
          for (const [tensorName, tensor] of original) {
            expectEqual(saved.get(tensorName)?.shape, tensor.shape, tensorName);
            expectEqual(
              float32Values(saved.get(tensorName) as StoredTensor),
              float32Values(tensor),
              tensorName,
            );
          }
          expectEqual(readConfig(await readJson(filesIn(files), 'config.json')), model.config, 'config');
        });

        it('greedy tokens through the latent cache', async () => {
          const { promptLength } = await goldenCase('models', name);
          const { values, shape } = expected('input_ids');
          const generated = expected('generated');
          for (let b = 0; b < shape[0]; b++) {
            const prompt = Array.from(values.subarray(b * shape[1], b * shape[1] + promptLength));
            const tokens = await tokensOf(generate(model, prompt, { maxNewTokens: 16 }));
            expectEqual(tokens, Array.from(generated.values.subarray(b * 16, b * 16 + 16)), `entry ${b}`);
          }
        });

        it('the absorbed form alone, in pieces of several tokens', async () => {
          const [b, s] = ids.shape;
          const caches = model.createCaches(b, s);
          const pieces = [0, 3, 4].map((start, i, starts) => {
            const piece = tf.slice2d(ids, [0, start], [b, (starts[i + 1] ?? s) - start]);
            return model.step(piece, caches);
          });
          const logits = tf.concat(pieces, 1);
          expectClose('logits', await read(logits), expected('logits'), bounds);
          for (const cache of caches) cache.dispose();
          tf.dispose([logits, ...pieces]);
        });

        it('both YaRN corrections', async () => {
          const { softmaxScale, rotaryScale } = await goldenCase('models', name);
          const { attention } = model.layers[0];
          const got = { shape: [2], values: [attention.softmaxScale, attention.rope.rotaryScale] };
          const right = { shape: [2], values: [softmaxScale, rotaryScale] };
          expectClose('scales', got, right, { metric: 1e-12, relativeL2: 1e-12 });
        });
      });
    }

    it('a saved model loads with the same logits, split and stacked weights and biases included', async () => {
      const model = new DeepseekModel(tiny, { seed: 5 });
      // biases start as zeros: give every weight values of its own
      for (const [i, variable] of model.variables.entries()) {
        tf.tidy(() => {
          variable.assign(tf.randomNormal(variable.shape, 0, 0.3, 'float32', i + 1));
        });
      }
      const ids = tf.tensor2d([1, 2, 3, 4, 5, 6], [2, 3], 'int32');
      const files = await model.save();
      const loaded = await loadDeepseek(filesIn(files));
      const [before, after] = [model.logits(ids), loaded.logits(ids)];
      expectEqual(await after.data(), await before.data(), 'logits');
      expectEqual(loaded.config, model.config, 'config');
      expectEqual([...(await loaded.save())], [...files], 'files');
      tf.dispose([ids, before, after]);
      model.dispose();
      loaded.dispose();
    });

    it('prompts of different lengths, padded on the right', async () => {
      const model = new DeepseekModel(tiny, { seed: 5 });
      const caches = model.createCaches(2, 5);
      const padded = tf.tensor2d([1, 2, 3, 4, 5, 0], [2, 3], 'int32');
      const prefilled = model.prefill(padded, caches, [3, 2]);
      expectEqual(caches[1].lengths, [3, 2], 'lengths');
      const next = tf.tensor2d([6, 7], [2, 1], 'int32');
      const stepped = model.step(next, caches);
      for (const [b, sequence] of [
        [1, 2, 3, 6],
        [4, 5, 7],
      ].entries()) {
        const alone = tf.tidy(() => {
          const all = model.logits(tf.tensor2d([sequence], [1, sequence.length], 'int32'));
          return tf.slice(tf.squeeze<tf.Tensor2D>(all, [0]), [sequence.length - 2, 0]);
        });
        const got = tf.tidy(() =>
          tf.stack([tf.gather(prefilled, b), tf.gather(tf.squeeze<tf.Tensor2D>(stepped, [1]), b)]),
        );
        expectClose(`entry ${b}`, await read(got), await read(alone), { metric: 1e-5, relativeL2: 1e-5 });
        tf.dispose([alone, got]);
      }
      for (const cache of caches) cache.dispose();
      tf.dispose([padded, prefilled, next, stepped]);
      model.dispose();
    });

    it('generation leaves no tensor behind, whichever way it ends', async () => {
      const model = new DeepseekModel(tiny, { seed: 5 });
      await tokensOf(generate(model, [1], { maxNewTokens: 2 }));
      const { numTensors } = tf.memory();
      const whole = generate(model, [1, 2], { maxNewTokens: 20 });
      expectEqual((await tokensOf(whole)).length, 20);
      expectEqual(whole.report.stopped, 'length');
      const left = generate(model, [1, 2], { maxNewTokens: 20 });
      for await (const token of left) if (token >= 0) break;
      const controller = new AbortController();
      const stopped = generate(model, [1, 2], { maxNewTokens: 20, signal: controller.signal });
      let count = 0;
      for await (const token of stopped) if (token >= 0 && ++count === 3) controller.abort();
      expectEqual([count, stopped.report.stopped], [3, 'signal']);
      const ended = generate(model, [1, 2], { maxNewTokens: 20, endTokens: [...Array(20).keys()] });
      expectEqual([(await tokensOf(ended)).length, ended.report.stopped], [1, 'end token']);
      expectEqual(tf.memory().numTensors, numTensors, 'tensors');
      model.dispose();
    });

    it('500 decode steps leave the number of tensors as it is', async () => {
      const model = new DeepseekModel(
        { ...tiny, numHiddenLayers: 1, maxPositionEmbeddings: 600 },
        { seed: 5 },
      );
      const caches = model.createCaches(1, 501);
      const next = tf.tensor2d([3], [1, 1], 'int32');
      const step = async (): Promise<number> => {
        const logits = model.step(next, caches);
        await logits.data();
        logits.dispose();
        return tf.memory().numTensors;
      };
      const first = await step();
      for (let i = 0; i < 500; i++) expectEqual(await step(), first, `tensors after step ${i}`);
      for (const cache of caches) cache.dispose();
      next.dispose();
      model.dispose();
    }).timeout(300_000);
  });

  describe('on cpu', () => {
    before(() => tf.setBackend('cpu'));

    it('the report tells the caches apart', async () => {
      const model = new DeepseekModel(tiny, { seed: 5 });
      const { report } = generate(model, [1, 2, 3], { maxNewTokens: 5 });
      expectEqual(report.perHeadCacheBytes, 4 * 8 * 2 * 2 * (6 + 5));
      const generation = generate(model, [1, 2, 3], { maxNewTokens: 5 });
      await tokensOf(generation);
      const { promptTokens, newTokens, cacheBytes, prefillTokensPerSecond, decodeTokensPerSecond } =
        generation.report;
      expectEqual([promptTokens, newTokens, cacheBytes], [3, 5, 4 * 8 * 2 * (6 + 2)]);
      expectTrue(prefillTokensPerSecond > 0 && decodeTokensPerSecond > 0, 'expected rates above 0');
      model.dispose();
    });

    it('generates over caches of half the bytes', async () => {
      const model = new DeepseekModel(tiny, { seed: 5 });
      const generation = generate(model, [1, 2, 3], { maxNewTokens: 5, cacheStorage: 'float16' });
      const tokens = await tokensOf(generation);
      expectEqual([tokens.length, generation.report.cacheBytes], [5, 2 * 8 * 2 * (6 + 2)]);
      model.dispose();
    });

    it('samples by temperature, top-k and seed', async () => {
      const model = new DeepseekModel(tiny, { seed: 5 });
      const sample = (options: object): Promise<number[]> =>
        tokensOf(generate(model, [1, 2], { maxNewTokens: 12, ...options }));
      const greedy = await sample({});
      expectEqual(await sample({ temperature: 1, topK: 1 }), greedy, 'topK 1');
      const drawn = await sample({ temperature: 2, seed: 3 });
      expectEqual(await sample({ temperature: 2, seed: 3 }), drawn, 'the same seed');
      const others = await Promise.all([4, 5, 6].map((seed) => sample({ temperature: 2, seed })));
      expectTrue(
        others.some((other) => String(other) !== String(drawn)),
        'expected other seeds to differ',
      );
      model.dispose();
    });

    it('bad calls are told apart', () => {
      const model = new DeepseekModel(tiny, { seed: 5 });
      const start = (prompt: number[], options: object): unknown =>
        generate(model, prompt, { maxNewTokens: 3, ...options });
      expectThrows(() => start([], {}), 'generate: the prompt is empty');
      expectThrows(
        () => start([1, 20], {}),
        "generate: the prompt's tokens must be integers from 0 to 19, got 20",
      );
      expectThrows(
        () => start([1], { maxNewTokens: -1 }),
        'generate: maxNewTokens must be an integer from 0, got -1',
      );
      expectThrows(
        () => start([1, 2], { maxNewTokens: 31 }),
        "generate: the prompt's 2 and 31 new tokens exceed max_position_embeddings=32",
      );
      expectThrows(
        () => start([1], { temperature: -1 }),
        'generate: temperature must be a number from 0, got -1',
      );
      expectThrows(() => start([1], { topK: 0 }), 'generate: topK must be a positive integer, got 0');
      expectThrows(
        () => model.logits(tf.zeros([1, 2])),
        'DeepseekModel: ids must be int32 [b, s], got float32 [1, 2]',
      );
      model.dispose();
    });
  });

  describe('config.json', () => {
    const json = { ...writeConfig(tiny) };
    const change = (changes: object) => () => readConfig({ ...json, ...changes });

    it('survives writing and reading', () => {
      expectEqual(readConfig(json), tiny);
      const plain = { ...tiny, ropeScaling: null, qLoraRank: null };
      expectEqual(readConfig(writeConfig(plain)), plain);
    });

    it('both spellings read the same', () => {
      const { rope_theta, rope_scaling, torch_dtype, ...rest } = json;
      const { type, ...scaling } = rope_scaling as Record<string, unknown>;
      const newStyle = {
        ...rest,
        dtype: torch_dtype,
        rope_parameters: { ...scaling, rope_type: type, rope_theta },
      };
      expectEqual(readConfig(newStyle), tiny);
    });

    it('the goldens are read', async () => {
      const { ropeScaling, ropeTheta } = readConfig(
        await readJson(goldenFolder('models/v3-dense-yarn'), 'config.json'),
      );
      expectEqual([ropeScaling?.factor, ropeTheta], [40, 10000]);
      const halves = readConfig(await readJson(goldenFolder('models/v3-halves-tied'), 'config.json'));
      expectEqual([halves.ropeInterleave, halves.tieWordEmbeddings], [false, true]);
    });

    it('what is not supported is named', () => {
      expectThrows(
        change({ model_type: 'llama' }),
        'config.json: required: model_type="llama", supported: model_type="deepseek_v3"',
      );
      expectThrows(
        change({ first_k_dense_replace: 1, n_routed_experts: 8 }),
        'config.json: required: first_k_dense_replace=1 of num_hidden_layers=2, supported: dense layers only (first_k_dense_replace >= num_hidden_layers); missing: mixture-of-experts layers',
      );
      expectThrows(
        change({ num_key_value_heads: 1 }),
        'config.json: required: num_key_value_heads=1, supported: num_key_value_heads=2',
      );
      expectThrows(
        change({ hidden_act: 'gelu' }),
        'config.json: required: hidden_act="gelu", supported: hidden_act="silu"',
      );
      expectThrows(
        change({ quantization_config: { quant_method: 'fp8' } }),
        'config.json: required: quantization_config={"quant_method":"fp8"}, supported: quantization_config=null',
      );
      expectThrows(
        change({ rope_scaling: { type: 'linear', factor: 2 } }),
        'config.json: required: rope_scaling.type="linear", supported: rope_scaling.type="yarn"',
      );
      expectThrows(
        change({ hidden_size: undefined }),
        'config.json: hidden_size must be a positive integer, got undefined',
      );
      expectThrows(change({ rope_theta: 'x' }), 'config.json: rope_theta must be a number, got "x"');
      expectThrows(
        change({ rope_interleave: 1 }),
        'config.json: rope_interleave must be true or false, got 1',
      );
    });

    it('an absent or broken one is told apart', async () => {
      await expectRejects(() => loadDeepseek(filesIn(new Map())), 'checkpoint: config.json is missing');
      const broken = new Map([['config.json', new TextEncoder().encode('{"a":')]]);
      await expectRejects(
        () => loadDeepseek(filesIn(broken)),
        'checkpoint: config.json is not JSON (Unexpected end of JSON input)',
      );
    });
  });
});
