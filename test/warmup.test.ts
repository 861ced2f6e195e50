/** warmup() compiles what the described calls need, all of it and nothing twice, and runs nothing. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { compiledKeys } from '../kernels/webgpu/pipeline.js';
import { mlaAttention, warmup } from '../src/index.js';
import type { Call } from '../src/index.js';
import '../src/webgpu.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectRejects, expectTrue } from './support/expect.js';
import './support/losses.js';

/** Head sizes that no other test has, so that nothing is compiled before. */
const call: Call = {
  op: 'mlaAttention',
  shapes: { q: [1, 5, 2, 28], k: [1, 6, 2, 28], v: [1, 6, 2, 36] },
  options: { causal: true },
};
const decodeCall: Call = {
  op: 'mlaDecode',
  shapes: { qLatent: [1, 1, 3, 64], qRope: [1, 1, 3, 16], cKv: [1, 33, 64], kRope: [1, 33, 16] },
  options: { softmaxScale: 0.1 },
};

describe('warmup', () => {
  onEachDevice(({ backend }) => {
    it('reports each kernel of the calls and of their gradients', async () => {
      const steps: [number, number][] = [];
      const { numTensors } = tf.memory();
      await warmup([call, decodeCall], (done, total) => steps.push([done, total]));
      const total = steps.length;
      expectTrue(total >= 6, `expected at least three kernels a call, got ${total} in all`);
      expectEqual(
        steps,
        steps.map((_, index) => [index + 1, total]),
        'progress',
      );
      expectEqual(tf.memory().numTensors, numTensors, 'tensors');
    });

    it('of no calls is done at once', async () => {
      let steps = 0;
      await warmup([], () => steps++);
      expectEqual(steps, 0);
    });

    it('rejects what the op itself would refuse', async () => {
      const bad: Call = { ...call, shapes: { ...call.shapes, k: [1, 6, 2, 27] } };
      await expectRejects(
        () => warmup([bad]),
        "warmup: k must be [b=1, skv, hkv, dqk=28] for layout 'bshd', got [1, 6, 2, 27]",
      );
    });

    if (backend !== 'webgpu') return;

    it('leaves nothing to compile for the call and its gradient', async () => {
      await warmup([call]);
      const { device } = tf.backend() as WebGPUBackend;
      const before = compiledKeys(device);
      const inputs = ['q', 'k', 'v'].map((name) => {
        const shape = (call.shapes as unknown as Record<string, [number, number, number, number]>)[name];
        return tf.ones<tf.Rank.R4>(shape);
      });
      const attend = (...[q, k, v]: tf.Tensor[]): tf.Tensor =>
        mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, { causal: true });
      const gradients = tf.grads((...x) => tf.sum(attend(...x)))(inputs);
      await Promise.all(gradients.map((gradient) => gradient.data()));
      const added = compiledKeys(device).filter((key) => !before.includes(key));
      expectEqual(added, [], 'pipelines compiled after the warm-up');
      tf.dispose([...inputs, ...gradients]);
    });
  });
});
