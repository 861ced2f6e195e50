/** What is peculiar to the wasm backend: memory that grows, that is hidden, and that must be given back. */
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
import { makeCorpus } from '../demo/shared/corpus.js';
import { presets } from '../demo/shared/presets.js';
import { Trainer } from '../demo/shared/trainer.js';
import * as binaries from '../kernels/wasm/binaries.js';
import { kernelsFor } from '../kernels/wasm/compiled.js';
import { memoryOf } from '../kernels/wasm/memory.js';
import { blockBytes, problemBytes } from '../kernels/wasm/problemBlock.js';
import { LatentCache, explain, mlaAttention, mlaDecode } from '../src/index.js';
import { DeepseekModel } from '../src/models.js';
import '../src/wasm.js';
import { compareWithReference, casesOf } from './support/kernelTest.js';
import { signatures } from './support/answers.js';
import type { ComparedKernel } from './support/answers.js';
import { expectSameBits } from './support/compare.js';
import './support/devices.js';
import { expectEqual, expectThrows, expectTrue } from './support/expect.js';
import { allowSavedTensors } from './support/onDevice.js';

/** The members of tfjs's module that the tests get between. */
interface Module {
  asm: Record<string, unknown>;
  _malloc: (bytes: number) => number;
  _free: (address: number) => void;
}

function backendOf(): BackendWasm {
  return tf.backend() as BackendWasm;
}

function moduleOf(): Module {
  return backendOf().wasm as unknown as Module;
}

/** The memory of a backend that shows it. */
function memory(): WebAssembly.Memory {
  const shown = memoryOf(backendOf());
  if (!shown) throw new Error("expected tfjs's wasm backend to show its memory, got none");
  return shown;
}

/** Puts other members in the module's place while something runs. */
async function withMembers<T>(members: Partial<Module>, run: () => Promise<T>): Promise<T> {
  const module = moduleOf();
  const own = Object.fromEntries(Object.keys(members).map((name) => [name, module[name as keyof Module]]));
  Object.assign(module, members);
  try {
    return await run();
  } finally {
    Object.assign(module, own);
  }
}

function newTrainer(): Trainer {
  const model = new DeepseekModel(presets.tiny.model, { seed: 2 });
  const corpus = makeCorpus(['Some apples are red, and others are green. '.repeat(60)]);
  return new Trainer(model, corpus, { ...presets.tiny.training, totalSteps: 1000 });
}

function disposeTrainer(trainer: Trainer): void {
  trainer.dispose();
  trainer.model.dispose();
}

async function train(trainer: Trainer, steps: number): Promise<number[]> {
  for (let i = 0; i < steps; i++) await trainer.train();
  return trainer.losses.slice(-steps);
}

describe('wasm', () => {
  before(() => tf.setBackend('wasm'));
  allowSavedTensors();

  it('has kernels that keep nothing in the memory that they import', () => {
    for (const [name, base64] of Object.entries(binaries)) {
      const bytes = Buffer.from(base64, 'base64');
      const sections = sectionsOf(bytes);
      const dataSection = 11;
      expectTrue(!sections.includes(dataSection), `${name} has a data section`);
      expectTrue(sections.includes(10), `${name} has no code: the sections were misread`);
    }
    const { simd } = binaries;
    const imports = WebAssembly.Module.imports(new WebAssembly.Module(Buffer.from(simd, 'base64')));
    expectEqual(imports.map(({ module, name }) => `${module}.${name}`).sort(), ['env.memory', 'host.log']);
  });

  it('writes the block that the kernels read', () => {
    expectEqual(kernelsFor(memory()).problemBytes(), problemBytes);
  });

  it('500 training steps give back every byte', async () => {
    const trainer = newTrainer();
    // Emscripten replaces its members by others at their first call
    await train(trainer, 1);
    const { _malloc, _free } = moduleOf();
    const taken = new Map<number, number>();
    const ledger = {
      _malloc: (bytes: number): number => {
        const address = _malloc(bytes);
        taken.set(address, bytes);
        return address;
      },
      _free: (address: number): void => {
        taken.delete(address);
        _free(address);
      },
    };
    const held = (): number => [...taken.values()].reduce((sum, bytes) => sum + bytes, 0);
    await withMembers(ledger, async () => {
      await train(trainer, 20);
      const before = { held: held(), size: memory().buffer.byteLength };
      for (let i = 0; i < 5; i++) {
        await train(trainer, 100);
        const after = { held: held(), size: memory().buffer.byteLength };
        expectEqual(after, before, `bytes after step ${trainer.step}`);
      }
      expectTrue(before.held > 0, 'the ledger saw no memory');
    });
    disposeTrainer(trainer);
  }).timeout(120_000);

  it('survives memory that grows in the middle of a training step', async () => {
    const undisturbed = newTrainer();
    const expected = await train(undisturbed, 3);
    disposeTrainer(undisturbed);

    const trainer = newTrainer();
    const { _malloc, _free } = moduleOf();
    const first = memory().buffer;
    let calls = 0;
    let growths = 0;
    const growing = {
      _malloc: (bytes: number): number => {
        // between the outputs and the scratch of one of our kernels
        if (bytes === blockBytes && calls++ % 5 === 0 && growths < 3) {
          const size = memory().buffer.byteLength;
          _free(_malloc(size));
          if (memory().buffer.byteLength > size) growths++;
        }
        return _malloc(bytes);
      },
    };
    expectEqual(await withMembers(growing, () => train(trainer, 3)), expected, 'losses');
    expectEqual(growths, 3, 'growths of the memory');
    expectEqual(first.byteLength, 0, 'bytes in the buffer from before');
    disposeTrainer(trainer);
  });

  describe('with a backend that hides its memory', () => {
    const kernels = (Object.keys(signatures) as ComparedKernel[]).filter((name) =>
      tf.getKernel(name, 'wasm'),
    );
    for (const kernel of kernels) {
      it(`copies, with the same results: ${kernel}`, async () => {
        await withMembers({ asm: { ...moduleOf().asm, memory: undefined } }, async () => {
          const { passedOver } = explain('mlaAttention', {
            q: [1, 1, 1, 8],
            k: [1, 1, 1, 8],
            v: [1, 1, 1, 8],
          });
          expectTrue(
            passedOver.some(({ candidate }) => candidate === 'in place'),
            'expected explain to say that tensors are copied',
          );
          for (const c of casesOf(kernel).filter(({ cost }) => cost === 'small')) {
            await compareWithReference(kernel, c);
          }
        });
      });
    }

    it('copies a packed cache, with the same bits', async () => {
      const cache = new LatentCache({
        ...{ batch: 1, capacity: 9, latentRank: 10, ropeDim: 6 },
        storage: 'float16',
      });
      const [cKv, kRope] = [tf.randomNormal<tf.Rank.R3>([1, 9, 10]), tf.randomNormal<tf.Rank.R3>([1, 9, 6])];
      cache.append(cKv, kRope);
      const [qLatent, qRope] = [tf.ones<tf.Rank.R4>([1, 2, 3, 10]), tf.ones<tf.Rank.R4>([1, 2, 3, 6])];
      const decode = async (): Promise<tf.Tensor> =>
        mlaDecode(qLatent, qRope, cache.cKv, cache.kRope, { softmaxScale: 0.3 });
      const inPlace = await decode();
      const copied = await withMembers({ asm: { ...moduleOf().asm, memory: undefined } }, decode);
      expectSameBits('out', await copied.data(), await inPlace.data());
      cache.dispose();
      tf.dispose([cKv, kRope, qLatent, qRope, inPlace, copied]);
    });
  });

  it('says so when the memory is full, and keeps nothing', () => {
    const x = tf.ones<tf.Rank.R4>([1, 2, 1, 8]);
    const { numTensors } = tf.memory();
    const numDataIds = backendOf().numDataIds();
    const { _malloc } = moduleOf();
    let left = 5; // what the op makes for absent inputs, out and lse, but nothing to compute in
    moduleOf()._malloc = (bytes) => (left-- > 0 ? _malloc(bytes) : 0);
    try {
      const message = `tfjs-mla/wasm: the backend's memory is full: no room for ${blockBytes} bytes more`;
      expectThrows(() => mlaAttention(x, x, x), message);
    } finally {
      moduleOf()._malloc = _malloc;
    }
    expectEqual([tf.memory().numTensors, backendOf().numDataIds()], [numTensors, numDataIds]);
    x.dispose();
  });
});

/** The numbers of a module's sections, in their order. */
function sectionsOf(bytes: Uint8Array): number[] {
  const sections: number[] = [];
  for (let at = 8; at < bytes.length;) {
    sections.push(bytes[at++]);
    let size = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      size |= (byte & 127) << shift;
      if (byte < 128) break;
    }
    at += size;
  }
  return sections;
}
