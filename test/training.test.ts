/** Training is PyTorch's, step by step: the golden run, from its checkpoint. */
import * as tf from '@tensorflow/tfjs-core';
import type { Batch } from '../demo/shared/batches.js';
import { adamOptions, lossAndGradients, trainingStep } from '../demo/shared/trainer.js';
import '../src/index.js';
import { Adam, joinParts, loadDeepseek } from '../src/models.js';
import type { DeepseekModel } from '../src/models.js';
import '../src/webgpu.js';
import { goldenFolder, goldenTensors } from './support/checkpoints.js';
import { expectClose } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectTrue } from './support/expect.js';
import { allowSavedTensors } from './support/onDevice.js';
import { tileProductsInSoftware } from './support/products.js';

const folder = 'training/v3-dense-bytes';
const learningRate = 0.003;

describe('training', () => {
  allowSavedTensors();
  let expected: Awaited<ReturnType<typeof goldenTensors>>;
  before(async () => {
    expected = await goldenTensors(folder);
  });

  onEachDevice((device) => {
    tileProductsInSoftware(device);
    const isSlow = device.isSoftware && device.backend === 'webgpu';

    it('the gradients of step 0', async () => {
      const model = await loadDeepseek(goldenFolder(folder));
      const { inputs, targets } = batchOf(0);
      const { loss, gradients } = lossAndGradients(model, inputs, targets);
      expectNear('loss of step 0', (await loss.data())[0], lossesOf('expected.loss')[0], 1e-5);
      for (const [name, got] of await byParameter(model, gradients)) {
        const right = expected(`expected.grad.${name}`);
        expectClose(name, { shape: right.shape, values: got }, right, { metric: null, relativeL2: 1e-4 });
      }
      tf.dispose([inputs, targets, loss, ...gradients]);
      model.dispose();
    }).timeout(300_000);

    for (const [name, clipNorm, stepsInSoftware] of [
      ['expected.loss', Infinity, 10],
      ['expected.loss.clip', 1, 3],
    ] as const) {
      const steps = isSlow ? stepsInSoftware : 100;
      it(`${steps} steps of ${name}`, async () => {
        const model = await loadDeepseek(goldenFolder(folder));
        const optimizer = new Adam(model.variables, adamOptions);
        const losses = lossesOf(name);
        const norms = lossesOf(name.replace('loss', 'gradNorm'));
        for (let step = 0; step < steps; step++) {
          const [loss, norm] = await trainingStep(model, optimizer, batchOf(step), learningRate, clipNorm);
          expectNear(`loss of step ${step}`, loss, losses[step], 1e-3);
          expectNear(`norm of step ${step}`, norm, norms[step], 1e-3 * norms[step]);
        }
        optimizer.dispose();
        model.dispose();
      }).timeout(600_000);
    }
  });

  function batchOf(step: number): Batch {
    const { values, shape } = expected('tokens');
    const [, b, width] = shape;
    const rows = tf.tensor2d(values.subarray(step * b * width, (step + 1) * b * width), [b, width], 'int32');
    const inputs = tf.slice2d(rows, [0, 0], [b, width - 1]);
    const targets = tf.slice2d(rows, [0, 1], [b, width - 1]);
    rows.dispose();
    return { inputs, targets };
  }

  /** float64 in the file: float32 would do, but for its own rounding. */
  function lossesOf(name: string): Float64Array {
    return new Float64Array(expected(name).stored.bytes.slice().buffer);
  }
});

async function byParameter(model: DeepseekModel, gradients: tf.Tensor[]): Promise<Map<string, Float32Array>> {
  const whole = new Map<string, Float32Array>();
  let next = 0;
  for (const parameter of model.parameters) {
    const parts = gradients.slice(next, (next += parameter.parts.length));
    whole.set(
      parameter.name,
      joinParts(parameter, await Promise.all(parts.map((part) => part.data<'float32'>()))),
    );
  }
  return whole;
}

function expectNear(what: string, got: number, expected: number, bound: number): void {
  expectTrue(Math.abs(got - expected) <= bound, `${what}: expected ${expected} within ${bound}, got ${got}`);
}
