/** The trainer: repeatable, resumable to the bit, without leaks, and our kernels do its attention. */
import * as tf from '@tensorflow/tfjs-core';
import { evenBatch, trainingBatch } from '../demo/shared/batches.js';
import { fingerprint, makeCorpus, unigramEntropy } from '../demo/shared/corpus.js';
import { lossChartSvg } from '../demo/shared/lossChart.js';
import { presets } from '../demo/shared/presets.js';
import { decodeText, encodeText, streamText } from '../demo/shared/text.js';
import { Trainer, learningRateAt } from '../demo/shared/trainer.js';
import type { TrainingSettings } from '../demo/shared/trainer.js';
import { loadTraining, saveTraining } from '../demo/shared/trainingCheckpoint.js';
import '../src/index.js';
import { DeepseekModel, readSafetensors } from '../src/models.js';
import type { DeepseekConfig } from '../src/models.js';
import '../src/webgpu.js';
import { filesIn } from './support/checkpoints.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectRejects, expectThrows, expectTrue } from './support/expect.js';
import { allowSavedTensors } from './support/onDevice.js';
import { tileProductsInSoftware } from './support/products.js';
import { trainingKernels } from './support/trainingKernels.js';

const config: DeepseekConfig = {
  ...presets.tiny.model,
  hiddenSize: 16,
  intermediateSize: 24,
  numHiddenLayers: 2,
  attentionBias: true,
  qLoraRank: 6,
};
const settings: TrainingSettings = {
  batch: 2,
  sequence: 13,
  learningRate: 0.01,
  warmupSteps: 2,
  totalSteps: 20,
  clipNorm: 0.5,
  seed: 3,
};
const corpus = makeCorpus([
  Array.from({ length: 400 }, (_, i) => `${i} apples and ${i % 7} pears. `).join(''),
]);

function newTrainer(changes: Partial<TrainingSettings> = {}, model: Partial<DeepseekConfig> = {}): Trainer {
  return new Trainer(new DeepseekModel({ ...config, ...model }, { seed: 2 }), corpus, {
    ...settings,
    ...changes,
  });
}

async function lossesOf(trainer: Trainer, steps: number): Promise<number[]> {
  for (let i = 0; i < steps; i++) await trainer.train();
  return trainer.losses.slice(-steps);
}

function disposeAll(...trainers: Trainer[]): void {
  for (const trainer of trainers) {
    trainer.dispose();
    trainer.model.dispose();
  }
}

describe('trainer', () => {
  allowSavedTensors();
  onEachDevice((device) => {
    tileProductsInSoftware(device);

    it('a restored run has the very same losses', async () => {
      const trainer = newTrainer();
      await lossesOf(trainer, 3);
      await trainer.heldOutBitsPerByte(2);
      const files = await saveTraining(trainer);
      const { numTensors } = tf.memory();
      const restored = await loadTraining(filesIn(files), corpus);
      const { length } = restored.model.variables;
      expectEqual(tf.memory().numTensors - numTensors, length + 2, 'tensors');
      expectEqual([restored.step, restored.settings, restored.heldOut], [3, settings, trainer.heldOut]);
      expectEqual(await lossesOf(restored, 3), await lossesOf(trainer, 3), 'losses');
      expectEqual([...(await saveTraining(restored))], [...(await saveTraining(trainer))], 'files');
      disposeAll(trainer, restored);
    });

    it('runs with one seed are equal to the bit, others are not', async () => {
      const [one, same, other] = [newTrainer(), newTrainer(), newTrainer({ seed: 4 })];
      const losses = await lossesOf(one, 2);
      expectEqual(await lossesOf(same, 2), losses);
      expectTrue(String(await lossesOf(other, 2)) !== String(losses), 'expected another seed to differ');
      disposeAll(one, same, other);
    });

    if (device.backend === 'tensorflow') {
      it("of floats, a step copies nothing to the device but the loss's gradient, a 1 that tfjs makes", async () => {
        const trainer = newTrainer();
        await trainer.train();
        type CreateTensor = (shape: number[], dtype: number, values: unknown) => number;
        const backend = tf.backend() as unknown as {
          binding: { TF_FLOAT: number; createTensor: CreateTensor };
        };
        const { binding } = backend;
        const copied: number[][] = [];
        const createTensor: CreateTensor = (shape, dtype, values) => {
          if (dtype === binding.TF_FLOAT) copied.push(shape);
          return binding.createTensor(shape, dtype, values);
        };
        backend.binding = Object.create(binding, { createTensor: { value: createTensor } }) as typeof binding;
        try {
          await trainer.train();
        } finally {
          backend.binding = binding;
        }
        expectEqual(copied, [[]], 'shapes');
        disposeAll(trainer);
      });
    }

    it('500 steps leave tensors and bytes as they are', async () => {
      const trainer = newTrainer(
        { batch: 1, sequence: 4, totalSteps: 600 },
        { hiddenSize: 8, intermediateSize: 8, numHiddenLayers: 1, qLoraRank: null, vocabSize: 256 },
      );
      const measure = (): unknown => {
        const { numTensors, numBytes, numBytesAllocatedInGPU } = tf.memory() as tf.MemoryInfo & {
          numBytesAllocatedInGPU?: number;
        };
        return [numTensors, numBytes, numBytesAllocatedInGPU];
      };
      await lossesOf(trainer, 5);
      const before = measure();
      for (let i = 0; i < 10; i++) {
        await lossesOf(trainer, 50);
        expectEqual(measure(), before, `memory after step ${trainer.step}`);
      }
      expectTrue(trainer.losses[504] < trainer.losses[0] - 1, 'expected the loss to fall');
      disposeAll(trainer);
    }).timeout(600_000);

    it('a step runs our kernels once a layer, without scores or copies around them', async () => {
      const trainer = newTrainer();
      await trainer.train();
      const { kernels } = await tf.profile(async () => {
        await trainer.train();
        return tf.scalar(0);
      });
      const names = kernels.map(({ name }) => name);
      for (const name of trainingKernels()) {
        expectEqual(names.filter((other) => other === name).length, config.numHiddenLayers, name);
      }
      const s = settings.sequence;
      const isScores = (shape: number[]): boolean =>
        shape.length >= 2 && shape.slice(-2).every((n) => n === s);
      const scores = kernels.filter(({ outputShapes }) => outputShapes.some(isScores));
      expectEqual(
        scores.map(({ name }) => name),
        [],
        'kernels with outputs [..., s, s]',
      );
      // on wasm, matrices are turned before products: see src/layers/linear.ts
      const isTurnedMatrix = (inputShapes: number[][]): boolean =>
        device.backend === 'wasm' && inputShapes.every((shape) => shape.length === 2);
      const copies = kernels.filter(
        ({ name, inputShapes }) => name === 'Tile' || (name === 'Transpose' && !isTurnedMatrix(inputShapes)),
      );
      expectEqual(
        copies.map(({ name }) => name),
        [],
        'copies',
      );
      disposeAll(trainer);
    });
  });

  describe('on cpu', () => {
    before(() => tf.setBackend('cpu'));

    it('optimizer.safetensors has two moments for every parameter, by its name', async () => {
      const trainer = newTrainer();
      await trainer.train();
      const files = await saveTraining(trainer);
      expectEqual(
        [...files.keys()],
        ['config.json', 'model.safetensors', 'optimizer.safetensors', 'trainer.json'],
      );
      const { tensors } = readSafetensors(
        (files.get('optimizer.safetensors') as Uint8Array<ArrayBuffer>).buffer,
      );
      for (const { name, shape } of trainer.model.parameters) {
        for (const moment of ['first_moment', 'second_moment']) {
          expectEqual(tensors.get(`${moment}.${name}`)?.shape, shape, name);
        }
      }
      disposeAll(trainer);
    });

    it('a bad checkpoint is told apart, and leaves nothing behind', async () => {
      const trainer = newTrainer();
      await trainer.train();
      const files = await saveTraining(trainer);
      disposeAll(trainer);
      const { numTensors } = tf.memory();
      const expectBad = async (
        name: string,
        content: Uint8Array<ArrayBuffer> | undefined,
        message: string,
      ) => {
        const changed = new Map(files);
        if (content) changed.set(name, content);
        else changed.delete(name);
        await expectRejects(() => loadTraining(filesIn(changed), corpus), message);
        expectEqual(tf.memory().numTensors, numTensors, 'tensors');
      };
      const text = (json: object): Uint8Array<ArrayBuffer> => new TextEncoder().encode(JSON.stringify(json));
      const weights = files.get('model.safetensors') as Uint8Array<ArrayBuffer>;
      const moments = files.get('optimizer.safetensors') as Uint8Array<ArrayBuffer>;
      await expectBad('trainer.json', undefined, 'checkpoint: trainer.json is missing');
      await expectBad(
        'trainer.json',
        text({ format: 'other' }),
        'trainer.json: format must be \'tfjs-mla training 1\', got "other"',
      );
      await expectBad(
        'trainer.json',
        text({ format: 'tfjs-mla training 1', settings: {}, losses: [] }),
        'trainer.json: corrupt: settings, losses or heldOut are incomplete',
      );
      await expectBad('optimizer.safetensors', undefined, 'checkpoint: optimizer.safetensors is missing');
      await expectBad(
        'optimizer.safetensors',
        weights,
        'checkpoint: first_moment.model.embed_tokens.weight is missing',
      );
      await expectBad(
        'model.safetensors',
        moments,
        `checkpoint: has tensors that config.json does not account for: ${[...readSafetensors(moments.slice().buffer).tensors.keys()].join(', ')}`,
      );
      await expectBad(
        'model.safetensors',
        undefined,
        'checkpoint: has neither model.safetensors nor model.safetensors.index.json',
      );
      await expectRejects(
        () =>
          loadTraining(filesIn(files), makeCorpus(['another text, long enough to be split in two parts'])),
        `trainer.json: the run was trained on another corpus: ${fingerprint(corpus)}, this is 48-2-${fingerprint(makeCorpus(['another text, long enough to be split in two parts'])).split('-')[2]}`,
      );
    });

    it('an update runs no more kernels with more layers', async () => {
      const kernelsOf = async (numHiddenLayers: number): Promise<string[]> => {
        const { optimizer, model } = newTrainer({}, { numHiddenLayers });
        const gradients = model.variables.map((each) => tf.onesLike(each));
        const { kernels } = await tf.profile(() => optimizer.update(gradients, 0.01, 1));
        tf.dispose(gradients);
        optimizer.dispose();
        model.dispose();
        // these two compute nothing
        return kernels.map(({ name }) => name).filter((name) => !['Identity', 'Reshape'].includes(name));
      };
      expectEqual(await kernelsOf(4), await kernelsOf(2));
    });

    it('bad settings are named', () => {
      const model = new DeepseekModel(config, { seed: 2 });
      const make = (sequence: number) => () => new Trainer(model, corpus, { ...settings, sequence });
      const { heldOut, train } = corpus;
      expectThrows(
        make(heldOut.length),
        `Trainer: expected more than sequence=${heldOut.length} bytes of text in both parts, got ${train.length} and ${heldOut.length}`,
      );
      const shortModel = new DeepseekModel({ ...config, maxPositionEmbeddings: 8 }, { seed: 2 });
      expectThrows(
        () => new Trainer(shortModel, corpus, settings),
        "Trainer: sequence=13 exceeds the model's max_position_embeddings=8",
      );
      model.dispose();
      shortModel.dispose();
    });

    it('batches are windows and what follows them, spread over the whole text', () => {
      const text = Uint8Array.from({ length: 200 }, (_, i) => i);
      const shape = { batch: 3, sequence: 4 };
      const { inputs, targets } = trainingBatch(text, shape, 1, 2);
      expectEqual(targets.dataSync(), tf.add(inputs, 1).dataSync(), 'targets');
      const starts = (seed: number, step: number): number[][] =>
        trainingBatch(text, shape, seed, step)
          .inputs.arraySync()
          .map((row) => row.slice(0, 1));
      expectTrue(String(starts(1, 2)) !== String(starts(1, 3)), 'expected steps to differ');
      const all = Array.from({ length: 400 }, (_, step) => starts(1, step)).flat(2);
      expectEqual([Math.min(...all), Math.max(...all)], [0, 195], 'first and last window');
      const even = evenBatch(text, shape, 3, 6);
      expectEqual(
        even.inputs.arraySync().map(([start]) => start),
        [97, 130, 162],
      );
    });

    it('a loss that is not a number ends the training', async () => {
      const trainer = newTrainer({ learningRate: NaN });
      await trainer.train();
      await expectRejects(() => trainer.train(), 'Trainer: the loss of step 2 is NaN');
      disposeAll(trainer);
    });
  });

  it('the learning rate warms up and decays to a tenth', () => {
    const rates = [0, 1, 2, 11, 20, 30].map((step) => learningRateAt(step, settings));
    expectEqual(
      rates.map((rate) => Number(rate.toFixed(6))),
      [0.005, 0.01, 0.01, 0.0055, 0.001, 0.001],
    );
  });

  it('the corpus keeps whole texts aside, or the end of a single one', () => {
    const texts = Array.from({ length: 40 }, (_, i) => `text ${i}`);
    const { train, heldOut } = makeCorpus(texts);
    expectEqual(decodeText(heldOut), 'text 19\n\ntext 39');
    expectTrue(!decodeText(train).includes('text 39'), 'expected the texts held out to be nowhere else');
    const single = makeCorpus(['x'.repeat(95) + 'y'.repeat(5)]);
    expectEqual([single.train.length, decodeText(single.heldOut)], [95, 'yyyyy']);
    expectThrows(
      () => makeCorpus([]),
      'makeCorpus: the corpus is empty or too small: 0 texts give 0 bytes to train on and 0 held out',
    );
  });

  it('unigram entropy, text and chart', async () => {
    expectEqual(unigramEntropy(Uint8Array.of(1, 1, 2, 2, 3, 3, 4, 4)), 2);
    expectEqual(decodeText(encodeText('naïve €')), 'naïve €');
    const bytes = async function* (): AsyncGenerator<number, void> {
      yield* encodeText('a€b');
    };
    const pieces: string[] = [];
    for await (const piece of streamText(bytes())) pieces.push(piece);
    expectEqual(pieces, ['a', '', '', '€', 'b', '']);
    const svg = lossChartSvg({
      title: 'a run',
      losses: [5, 4, 3],
      unigramEntropy: 4.3,
      heldOut: [{ step: 3, bitsPerByte: 4.2 }],
    });
    for (const part of ['<svg', 'a run', 'bits per byte', 'byte frequencies alone', 'held-out text']) {
      expectTrue(svg.includes(part), `expected "${part}" in the chart`);
    }
  });
});
