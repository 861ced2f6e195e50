/** Several linear maps of one input: composed, and as the kernel MLALinear where a backend has it. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
// the gradients of tfjs's ops: tfjs-core alone registers none
import '@tensorflow/tfjs-layers';
import '../src/layers.js';
import { MLALinear, MLALinearBackward, hasRowKernel } from '../src/core/rowKernels.js';
import { linear, linears } from '../src/layers/linear.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectThrows } from './support/expect.js';
import { allowSavedTensors } from './support/onDevice.js';

type Matrix = number[][];

const [inner, outs] = [6, [4, 3, 10]];

/** Small whole numbers, whose products and sums are exact in every precision. */
function whole(shape: number[], seed: number): tf.Tensor {
  return tf.tidy(() => tf.floor(tf.randomUniform(shape, -4, 5, 'float32', seed)));
}

async function rowsOf(tensor: tf.Tensor, columns: number): Promise<Matrix> {
  const values = [...(await tensor.data())];
  return Array.from({ length: tensor.size / columns }, (_, i) =>
    values.slice(i * columns, (i + 1) * columns),
  );
}

function transposed(a: Matrix): Matrix {
  return a[0].map((_, column) => a.map((row) => row[column]));
}

function times(a: Matrix, b: Matrix): Matrix {
  return a.map((row) => transposed(b).map((column) => row.reduce((sum, x, i) => sum + x * column[i], 0)));
}

function plus(a: Matrix, b: Matrix): Matrix {
  return a.map((row, i) => row.map((x, j) => x + b[i][j]));
}

/** x and three maps of it, one result in a shape of its own, with gradients: against loops, and tfjs's ops one by one. */
async function checkMaps(xShape: number[]): Promise<void> {
  const n = xShape.reduce((product, size) => product * size, 1) / inner;
  const shapes = [
    [n, 4],
    [n, 3, 1],
    [n, 2, 5],
  ];
  const x = whole(xShape, 1);
  const weights = outs.map((out, i) => whole([out, inner], 2 + i));
  const dYs = shapes.map((shape, i) => whole(shape, 5 + i));
  const maps = (ws: tf.Tensor[]): Parameters<typeof linears>[1] =>
    ws.map((weight, i) => (i === 0 ? { weight } : { weight, shape: shapes[i] }));
  const ys = linears(x, maps(weights));
  const loss = (results: tf.Tensor[]): tf.Scalar =>
    tf.addN(results.map((y, i) => tf.sum(tf.mul(y, dYs[i])))) as tf.Scalar;
  const gradients = tf.grads((a, ...ws) => loss(linears(a, maps(ws))))([x, ...weights]);
  const composed = tf.grads((a, ...ws) =>
    loss(
      ws.map((w, i) =>
        tf.reshape(tf.matMul(tf.reshape(a, [n, inner]), w as tf.Tensor2D, false, true), shapes[i]),
      ),
    ),
  )([x, ...weights]);

  const rows = await rowsOf(x, inner);
  const [w, dY] = [
    await Promise.all(weights.map((weight) => rowsOf(weight, inner))),
    await Promise.all(dYs.map((d, i) => rowsOf(d, outs[i]))),
  ];
  for (const [i, y] of ys.entries()) {
    expectEqual(y.shape, shapes[i], `shape of result ${i}`);
    expectEqual(await rowsOf(y, outs[i]), times(rows, transposed(w[i])), `result ${i}`);
  }
  const dX = dY.map((d, i) => times(d, w[i])).reduce(plus);
  const expected = [dX, ...dY.map((d) => times(transposed(d), rows))];
  for (const [i, gradient] of gradients.entries()) {
    expectEqual(gradient.shape, (i === 0 ? x : weights[i - 1]).shape, `shape of gradient ${i}`);
    expectEqual(await rowsOf(gradient, inner), expected[i], `gradient ${i}`);
    expectEqual(await rowsOf(composed[i], inner), expected[i], `gradient ${i} of tfjs's ops`);
  }
  tf.dispose([x, weights, dYs, ys, gradients, composed]);
}

describe('linear maps of one input', () => {
  allowSavedTensors();
  onEachDevice((device) => {
    for (const shape of [
      [7, inner],
      [2, 3, inner],
      [2, 3, 2, inner / 2],
    ]) {
      it(`three, with their gradients: x ${shape.join('·')}`, () => checkMaps(shape));
    }

    it('a bias is added to rows', async () => {
      const [x, weight, bias] = [whole([5, inner], 1), whole([4, inner], 2), whole([4], 3)];
      const y = linear(x, { weight, bias, shape: [5, 2, 2] });
      const expected = tf.tidy(() =>
        tf.reshape(tf.add(tf.matMul(x as tf.Tensor2D, weight as tf.Tensor2D, false, true), bias), y.shape),
      );
      expectEqual(y.shape, [5, 2, 2], 'shape');
      expectEqual([...(await y.data())], [...(await expected.data())], 'values');
      tf.dispose([x, weight, bias, y, expected]);
    });

    if (device.backend !== 'tensorflow') return;

    it('of no rows a weight has the gradient 0', async () => {
      const [x, weight] = [tf.zeros([0, inner]), whole([4, inner], 2)];
      const gradient = tf.grad((w) => linear(x, { weight: w }))(weight, tf.zeros([0, 4]));
      expectEqual(
        [...(await gradient.data())],
        Array.from({ length: 4 * inner }, () => 0),
        'gradient',
      );
      tf.dispose([x, weight, gradient]);
    });

    it('MLALinear refuses bad inputs (where TensorFlow has a GPU)', function () {
      if (!hasRowKernel(MLALinear)) this.skip();
      const [x, weight] = [tf.ones([5, 7]), tf.ones([4, 6])];
      expectThrows(
        () => linear(x, { weight }),
        'Invalid TF_Status: 3\nMessage: MLALinear: weights must be [out, in] for x [..., in]',
      );
      const fitting = tf.ones([4, 7]);
      expectThrows(
        () => linear(x, { weight: fitting, shape: [5, 5] }),
        'Invalid TF_Status: 3\nMessage: MLALinear: a shape must have as many elements as rows times out',
      );
      tf.dispose([x, weight, fitting]);
    });
  });
});

/** Kernels of lists in plain loops on tfjs's cpu backend: what the layers make of a backend's MLALinear. */
describe('linear maps of one input, with a kernel', () => {
  const calls: string[] = [];

  function readRows({ dataId }: tf.TensorInfo, columns: number, backend: MathBackendCPU): Matrix {
    const values = [...(backend.readSync(dataId) as Float32Array)];
    return Array.from({ length: values.length / columns }, (_, i) =>
      values.slice(i * columns, (i + 1) * columns),
    );
  }

  function write(matrix: Matrix, shape: number[], backend: MathBackendCPU): tf.TensorInfo {
    return backend.makeTensorInfo(shape, 'float32', Float32Array.from(matrix.flat()));
  }

  before(async () => {
    await tf.setBackend('cpu');
    tf.registerKernel({
      kernelName: MLALinear,
      backendName: 'cpu',
      kernelFunc: ({ inputs, backend, attrs }) => {
        calls.push(MLALinear);
        const cpu = backend as MathBackendCPU;
        const [x, ...weights] = inputs as unknown as tf.TensorInfo[];
        const rows = readRows(x, inner, cpu);
        const shapes = attrs?.shapes as number[][];
        return weights.map((weight, i) => {
          const y = times(rows, transposed(readRows(weight, inner, cpu)));
          return write(y, shapes[i]?.length ? shapes[i] : [rows.length, weight.shape[0]], cpu);
        });
      },
    });
    tf.registerKernel({
      kernelName: MLALinearBackward,
      backendName: 'cpu',
      kernelFunc: ({ inputs, backend }) => {
        calls.push(MLALinearBackward);
        const cpu = backend as MathBackendCPU;
        const [x, ...rest] = inputs as unknown as tf.TensorInfo[];
        const weights = rest.slice(0, rest.length / 2);
        const dYs = rest.slice(rest.length / 2).map((dY, i) => readRows(dY, weights[i].shape[0], cpu));
        const dX = dYs.map((dY, i) => times(dY, readRows(weights[i], inner, cpu))).reduce(plus);
        const dWeights = dYs.map((dY) => times(transposed(dY), readRows(x, inner, cpu)));
        return [
          write(dX, x.shape, cpu),
          ...dWeights.map((dWeight, i) => write(dWeight, weights[i].shape, cpu)),
        ];
      },
    });
  });
  after(() => {
    for (const name of [MLALinear, MLALinearBackward]) tf.unregisterKernel(name, 'cpu');
  });

  it('one call each way gives all results and gradients', async () => {
    calls.length = 0;
    await checkMaps([2, 3, inner]);
    expectEqual(calls, [MLALinear, MLALinear, MLALinearBackward], 'kernels');
  });
});
