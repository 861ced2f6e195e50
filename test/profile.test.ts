/** What the ops run, as tf.profile sees it: our kernels once each, and nothing of the size of a score matrix. */
import * as tf from '@tensorflow/tfjs-core';
import { mlaAttention, mlaDecode } from '../src/index.js';
import type { Layout } from '../src/index.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual } from './support/expect.js';
import { trainingKernels } from './support/trainingKernels.js';
import './support/losses.js';

type Kernels = Awaited<ReturnType<typeof tf.profile>>['kernels'];

/** Sizes that meet nowhere else, so that a [sq, skv] matrix is told by its shape. */
const dims = { b: 2, hq: 3, hkv: 3, sq: 13, skv: 17, dn: 32, dr: 8, dv: 24, r: 64, rr: 16 };

function shapeIn(layout: Layout, s: number, h: number, d: number): [number, number, number, number] {
  const sizes: Record<string, number> = { b: dims.b, s, h, d };
  return [...layout].map((axis) => sizes[axis]) as [number, number, number, number];
}

async function kernelsOf(run: () => tf.TensorContainer): Promise<Kernels> {
  const { kernels } = await tf.profile(() => tf.tidy(() => void run()));
  return kernels;
}

/** How often each kernel of ours ran. */
function ourCounts(kernels: Kernels): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { name } of kernels) if (name.startsWith('MLA')) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

function expectNone(kernels: Kernels, names: string[]): void {
  const found = kernels.map(({ name }) => name).filter((name) => names.includes(name));
  expectEqual(found, [], 'kernels that copy');
}

function expectNoScores(kernels: Kernels): void {
  const { sq, skv } = dims;
  for (const { name, inputShapes, outputShapes } of kernels) {
    for (const shape of [...inputShapes, ...outputShapes]) {
      const [rows, columns] = shape.slice(-2);
      const isScores = (rows === sq && columns === skv) || (rows === skv && columns === sq);
      if (isScores) throw new Error(`${name} has a tensor of the size of the scores: [${shape.join(', ')}]`);
    }
  }
}

function attentionInputs(layout: Layout): { inputs: tf.Tensor[]; dOut: tf.Tensor } {
  const { b, hq, hkv, sq, skv, dn, dr, dv } = dims;
  return {
    inputs: [
      tf.ones(shapeIn(layout, sq, hq, dn + dr)),
      tf.ones(shapeIn(layout, skv, hkv, dn)),
      tf.ones(shapeIn(layout, skv, hkv, dv)),
      tf.ones(layout === 'sbhd' ? [skv, b, dr] : [b, skv, dr]),
    ],
    dOut: tf.ones(shapeIn(layout, sq, hq, dv)),
  };
}

function attentionCounts(): Record<string, number> {
  return Object.fromEntries(trainingKernels().map((kernel) => [kernel, 1]));
}

describe('profile', () => {
  onEachDevice(() => {
    for (const layout of ['bshd', 'bhsd', 'sbhd'] as const) {
      it(`mlaAttention, ${layout}: forward and backward run each kernel once and copy nothing`, async () => {
        const { inputs, dOut } = attentionInputs(layout);
        const attend = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, kRope: tf.Tensor): tf.Tensor =>
          mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, {
            layout,
            causal: true,
            kRope: kRope as tf.Tensor3D,
            kvLengths: [9, 17],
          });
        const kernels = await kernelsOf(() => tf.grads(attend)(inputs, dOut));
        expectEqual(ourCounts(kernels), attentionCounts());
        expectNoScores(kernels);
        expectNone(kernels, ['Transpose', 'Tile', 'Concat', 'BroadcastTo', 'GatherV2']);
        tf.dispose([...inputs, dOut]);
      });
    }

    it('mlaAttention with lse: its gradient takes no kernel of its own', async () => {
      const { inputs, dOut } = attentionInputs('bshd');
      const loss = (q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, kRope: tf.Tensor): tf.Tensor => {
        const options = { kRope: kRope as tf.Tensor3D, returnLse: true } as const;
        const { out, lse } = mlaAttention(q as tf.Tensor4D, k as tf.Tensor4D, v as tf.Tensor4D, options);
        return tf.add(tf.sum(tf.mul(out, dOut)), tf.sum(lse));
      };
      const kernels = await kernelsOf(() => tf.grads(loss)(inputs));
      expectEqual(ourCounts(kernels), attentionCounts());
      tf.dispose([...inputs, dOut]);
    });

    it('mlaDecode: forward and backward run each kernel once and copy nothing', async () => {
      const { b, hq, sq, skv, r, rr } = dims;
      const inputs: tf.Tensor[] = [
        tf.ones([b, sq, hq, r]),
        tf.ones([b, sq, hq, rr]),
        tf.ones([b, skv, r]),
        tf.ones([b, skv, rr]),
      ];
      const dOut = tf.ones([b, sq, hq, r]);
      const attend = (qLatent: tf.Tensor, qRope: tf.Tensor, cKv: tf.Tensor, kRope: tf.Tensor): tf.Tensor =>
        mlaDecode(qLatent as tf.Tensor4D, qRope as tf.Tensor4D, cKv as tf.Tensor3D, kRope as tf.Tensor3D, {
          softmaxScale: 0.1,
          kvLengths: [9, 17],
        });
      const kernels = await kernelsOf(() => tf.grads(attend)(inputs, dOut));
      expectEqual(ourCounts(kernels), { MLADecode: 1, MLADelta: 1, MLADecodeDq: 1, MLADecodeDkv: 1 });
      expectNoScores(kernels);
      expectNone(kernels, ['Transpose', 'Tile', 'Concat', 'BroadcastTo', 'GatherV2', 'Slice']);
      tf.dispose([...inputs, dOut]);
    });
  });
});
