/** Calls that must throw: by their message, word for word, and with nothing left behind. */
import * as tf from '@tensorflow/tfjs-core';
import '../../src/index.js';
import '../../src/webgpu.js';
import { onEachDevice } from './devices.js';
import { expectEqual, expectThrows } from './expect.js';

/** Calls by the message that they throw. */
export type Refusals = Record<string, () => unknown>;

/** Defines a test for each call; `setUpKernels`: those of ours that a call runs before the one that throws. */
export function testRefusals(title: string, refusals: Refusals, setUpKernels: string[] = []): void {
  describe(title, () => {
    onEachDevice(() => {
      for (const [message, call] of Object.entries(refusals)) {
        it(message, async () => {
          const before = tf.memory().numTensors;
          const { kernels } = await tf.profile(() => {
            tf.tidy(() => expectThrows(call, message));
            return tf.scalar(0);
          });
          const launched = kernels.map(({ name }) => name).filter((name) => name.startsWith('MLA'));
          expectEqual(launched, setUpKernels, 'kernels launched');
          expectEqual(tf.memory().numTensors, before + 1, 'tensors left');
        });
      }
    });
  });
}

type Dtype = 'float32' | 'int32' | 'bool';

export function ones(shape: number[], dtype: Dtype = 'float32'): tf.Tensor4D {
  return tf.ones<tf.Rank.R4>(shape as [number, number, number, number], dtype);
}

export function ones3(shape: number[], dtype: Dtype = 'float32'): tf.Tensor3D {
  return tf.ones<tf.Rank.R3>(shape as [number, number, number], dtype);
}

export function disposed<T extends tf.Tensor>(tensor: T): T {
  tensor.dispose();
  return tensor;
}

/** What the types refuse, as a caller without types may pass it. */
export function untyped<T>(value: unknown): T {
  return value as T;
}
