/** The row kernels, on the backends that have them: against plain loops in float64, and tfjs's ops with their gradients. */
import * as tf from '@tensorflow/tfjs-core';
// the gradients of tfjs's ops: tfjs-core alone registers none
import '@tensorflow/tfjs-layers';
import * as names from '../src/core/rowKernels.js';
import { hasRowKernel, runAdamKernel, runRowKernel } from '../src/core/rowKernels.js';
import { absent } from '../src/core/tensors.js';
import { expectClose, expectSameBits, forwardBounds, gradientBounds } from './support/compare.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { read } from './support/onDevice.js';

interface Rows {
  shape: number[];
  values: number[];
}

function normal(shape: number[], seed: number, mean = 0, deviation = 1): tf.Tensor {
  return tf.randomNormal(shape, mean, deviation, 'float32', seed);
}

async function rowsOf(tensor: tf.Tensor): Promise<number[][]> {
  const d = tensor.shape[tensor.rank - 1];
  const values = [...(await tensor.data())];
  return Array.from({ length: tensor.size / d }, (_, i) => values.slice(i * d, (i + 1) * d));
}

function asRows(shape: number[], rows: number[][]): Rows {
  return { shape, values: rows.flat() };
}

/** Results against both oracles; a second run has the same bits. */
async function check(
  run: () => tf.Tensor[],
  bounds: typeof forwardBounds,
  composed: tf.Tensor[],
  reference: Rows[],
): Promise<void> {
  const [got, again] = [run(), run()];
  expectEqual(got.length, reference.length, 'results');
  for (const [i, tensor] of got.entries()) {
    expectClose(`result ${i}, float64 loops`, await read(tensor), reference[i], bounds);
    expectClose(`result ${i}, tfjs's ops`, await read(tensor), await read(composed[i]), bounds);
    expectSameBits(`result ${i}, second run`, await again[i].data(), await tensor.data());
  }
  tf.dispose([...got, ...again, ...composed]);
}

describe('row kernels', () => {
  onEachDevice((device) => {
    if (device.backend !== 'tensorflow') return;

    it('are all there', () => {
      // those of linear maps need a GPU: linear.test.ts
      const missing = Object.values(names).filter(
        (name) => typeof name === 'string' && !name.startsWith('MLALinear') && !hasRowKernel(name),
      );
      expectEqual(missing, [], 'missing');
    });

    for (const shape of [
      [1, 4],
      [33, 6],
      [2, 35, 256],
      [100, 1000],
      [3, 7],
      [31, 1],
      [5000, 128],
    ]) {
      for (const isSum of [false, true]) {
        it(`MLARMSNorm and its gradient: ${shape.join('·')}${isSum ? ', of a sum' : ''}`, async () => {
          const eps = 0.01;
          const d = shape[shape.length - 1];
          const [x, gain, dY] = [normal(shape, 1, 0.5, 2), normal([d], 2, 1, 0.3), normal(shape, 3)];
          const [addend, dSum] = isSum ? [normal(shape, 4), normal(shape, 5)] : [absent(), absent()];
          const sum = isSum ? tf.add(x, addend) : x.clone();
          const composed = (a: tf.Tensor, g: tf.Tensor): tf.Tensor =>
            tf.mul(tf.mul(a, tf.rsqrt(tf.add(tf.mean(tf.square(a), -1, true), eps))), g);
          const [sums, dYs, dSums] = [await rowsOf(sum), await rowsOf(dY), await rowsOf(dSum)];
          const gains = [...(await gain.data())];
          const roots = sums.map((row) => 1 / Math.sqrt(row.reduce((all, a) => all + a * a, 0) / d + eps));
          const y = sums.map((row, i) => row.map((a, c) => a * roots[i] * gains[c]));
          const dX = sums.map((row, i) => {
            const along = row.reduce((all, a, c) => all + dYs[i][c] * gains[c] * a, 0) / d;
            return row.map((a, c) => {
              const ofNorm = roots[i] * dYs[i][c] * gains[c] - roots[i] ** 3 * along * a;
              return isSum ? dSums[i][c] + ofNorm : ofNorm;
            });
          });
          const dGain = gains.map((_, c) =>
            sums.reduce((all, row, i) => all + dYs[i][c] * row[c] * roots[i], 0),
          );
          await check(
            () => runRowKernel(names.MLARMSNorm, { x, gain, addend }, { eps }),
            forwardBounds,
            [composed(sum, gain), sum.clone()],
            [asRows(shape, y), asRows(shape, sums)],
          );
          const [dComposed, dGainComposed] = tf.grads(composed)([sum, gain], dY);
          await check(
            () => runRowKernel(names.MLARMSNormBackward, { dY, sum, gain, dSum }, { eps }),
            gradientBounds,
            [isSum ? tf.add(dSum, dComposed) : dComposed, dGainComposed],
            [asRows(shape, dX), asRows([d], [dGain])],
          );
          tf.dispose([x, gain, dY, sum, ...[addend, dSum].filter(({ kept }) => !kept)]);
        });
      }
    }

    for (const [b, s, h, dn, dr] of [
      [2, 5, 3, 8, 4],
      [1, 7, 2, 0, 6],
      [3, 4, 1, 5, 2],
      [2, 40, 8, 64, 32],
      [2, 3, 0, 0, 8],
    ]) {
      for (const pairs of ['neighbours', 'halves'] as const) {
        for (const entries of [1, b]) {
          const title = `b${b} s${s} heads ${h} ${dn}+${dr}, ${pairs}, tables of ${entries} entries`;
          it(`MLARotary and its gradient: ${title}`, async () => {
            const heads = Math.max(1, h);
            const rope = normal([b * s, heads * dr], 1);
            const nope = dn ? normal([b * s, heads * dn], 2) : absent();
            const angles = normal([entries, s, 1, dr / 2], 3, 0, 3);
            const repeated =
              pairs === 'halves'
                ? tf.concat([angles, angles], 3)
                : tf.reshape(tf.stack([angles, angles], 4), [entries, s, 1, dr]);
            const [cos, sin] = [tf.cos(repeated), tf.sin(repeated)];
            const joined = h ? [b, s, h, dn + dr] : [b, s, dr];
            const dJoined = normal(joined, 4);
            const partner = (j: number): number => (pairs === 'neighbours' ? j ^ 1 : (j + dr / 2) % dr);
            const turn = tf.buffer([dr, dr]);
            for (let j = 0; j < dr; j++) turn.set(partner(j) > j ? -1 : 1, partner(j), j);
            const composed = (r: tf.Tensor, n?: tf.Tensor): tf.Tensor => {
              const parts = tf.reshape(r, [b, s, heads, dr]);
              const quarter = tf.reshape(
                tf.matMul(tf.reshape(r, [b * s * heads, dr]), turn.toTensor() as tf.Tensor2D),
                parts.shape,
              );
              const turned = tf.add(tf.mul(parts, cos), tf.mul(quarter, sin));
              const still = n ? [tf.reshape(n, [b, s, heads, dn])] : [];
              return tf.reshape(tf.concat([...still, turned], 3), joined);
            };
            const [cosines, sines] = [await rowsOf(cos), await rowsOf(sin)];
            const turnedBy = (row: number[], token: number, direction: number): number[] => {
              const place = token % (entries * s);
              return row.map((value, j) => {
                const other = row[partner(j)] * sines[place][j] * direction;
                return value * cosines[place][j] + (partner(j) > j ? -other : other);
              });
            };
            const perHead = async (tensor: tf.Tensor, d: number): Promise<number[][]> =>
              d ? rowsOf(tf.reshape(tensor, [b * s * heads, d])) : [];
            const [ropes, nopes] = [await perHead(rope, dr), await perHead(nope, dn)];
            const gradients = await perHead(dJoined, dn + dr);
            const tokenOf = (row: number): number => Math.floor(row / heads);
            const forward = ropes.map((row, i) => [...(nopes[i] ?? []), ...turnedBy(row, tokenOf(i), 1)]);
            const [dNope, dRope] = [
              gradients.map((row) => row.slice(0, dn)),
              gradients.map((row, i) => turnedBy(row.slice(dn), tokenOf(i), -1)),
            ];
            await check(
              () => runRowKernel(names.MLARotary, { nope, rope, cos, sin }, { pairs, heads: h }),
              forwardBounds,
              [composed(rope, dn ? nope : undefined)],
              [asRows(joined, forward)],
            );
            const [dRopeComposed, dNopeComposed = tf.zeros([b * s, 0])] = dn
              ? tf.grads(composed)([rope, nope], dJoined)
              : [tf.grad((r) => composed(r))(rope, dJoined)];
            await check(
              () => runRowKernel(names.MLARotaryBackward, { dJoined, cos, sin }, { pairs }),
              gradientBounds,
              [dNopeComposed, dRopeComposed],
              [asRows([b * s, heads * dn], dNope), asRows([b * s, heads * dr], dRope)],
            );
            tf.dispose([rope, angles, repeated, cos, sin, dJoined]);
            if (!nope.kept) nope.dispose();
          });
        }
      }
    }

    for (const [count, deviation] of [
      [1, 1],
      [7, 2],
      [4096, 40],
      [50001, 3],
    ]) {
      it(`MLASwiGLU and its gradient: ${count} numbers`, async () => {
        const [gate, up, dOut] = [normal([count], 1, 0, deviation), normal([count], 2), normal([count], 3)];
        const composed = (g: tf.Tensor, u: tf.Tensor): tf.Tensor => tf.mul(tf.mul(g, tf.sigmoid(g)), u);
        const [[g], [u], [d]] = [await rowsOf(gate), await rowsOf(up), await rowsOf(dOut)];
        const open = g.map((x) => 1 / (1 + Math.exp(-x)));
        const shape = [count];
        await check(
          () => runRowKernel(names.MLASwiGLU, { gate, up }, {}),
          forwardBounds,
          [composed(gate, up)],
          [{ shape, values: g.map((x, i) => x * open[i] * u[i]) }],
        );
        await check(
          () => runRowKernel(names.MLASwiGLUBackward, { dOut, gate, up }, {}),
          gradientBounds,
          tf.grads(composed)([gate, up], dOut),
          [
            { shape, values: g.map((x, i) => d[i] * u[i] * open[i] * (1 + x * (1 - open[i]))) },
            { shape, values: g.map((x, i) => d[i] * x * open[i]) },
          ],
        );
        tf.dispose([gate, up, dOut]);
      });
    }

    for (const [n, columns] of [
      [1, 2],
      [7, 5],
      [33, 256],
      [2100, 100],
    ]) {
      it(`MLACrossEntropy and its gradient: ${n} rows of ${columns}`, async () => {
        const logits = normal([n, columns], 1, 50, 20);
        const ids = Array.from({ length: n }, (_, i) => (i * 7 + 1) % columns);
        const [labels, dLoss] = [tf.tensor1d(ids, 'int32'), tf.scalar(1.7)];
        const composed = (x: tf.Tensor): tf.Tensor =>
          tf.neg(tf.mean(tf.sum(tf.mul(tf.logSoftmax(x), tf.oneHot(labels, columns)), 1)));
        const rows = await rowsOf(logits);
        const logSums = rows.map((row) => {
          const greatest = Math.max(...row);
          return greatest + Math.log(row.reduce((sum, x) => sum + Math.exp(x - greatest), 0));
        });
        const loss = rows.reduce((sum, row, i) => sum + logSums[i] - row[ids[i]], 0) / n;
        const share = (await dLoss.data())[0] / n;
        const dLogits = rows.map((row, i) =>
          row.map((x, c) => (Math.exp(x - logSums[i]) - Number(c === ids[i])) * share),
        );
        await check(
          () => runRowKernel(names.MLACrossEntropy, { logits, labels }, {}),
          forwardBounds,
          [composed(logits)],
          [{ shape: [], values: [loss] }],
        );
        await check(
          () => runRowKernel(names.MLACrossEntropyBackward, { dLoss, logits, labels }, {}),
          gradientBounds,
          [tf.grad(composed)(logits, dLoss)],
          [asRows([n, columns], dLogits)],
        );
        tf.dispose([logits, labels, dLoss]);
      });
    }

    for (const [n, d, table] of [
      [1, 3, 2],
      [100, 70, 7],
      [900, 128, 2],
      [40, 36, 3000],
      [1030, 256, 300],
    ]) {
      it(`MLAEmbeddingBackward: ${n} rows of ${d} into ${table}`, async () => {
        const dRows = normal([n, d], 1);
        // the last row of the table is read by none, and the first one often; some ids are of no row
        const read = Array.from({ length: n }, (_, i) =>
          i % 3 === 0 ? 0 : i % 11 === 5 ? -1 : i % 11 === 7 ? table : (i * 7) % (table - 1),
        );
        const ids = tf.tensor1d(read, 'int32');
        const composed = tf.matMul(tf.cast(tf.oneHot(ids, table), 'float32'), dRows, true);
        const dTable = Array.from({ length: table }, () => Array<number>(d).fill(0));
        for (const [i, row] of (await rowsOf(dRows)).entries()) {
          for (const [c, value] of row.entries()) if (dTable[read[i]]) dTable[read[i]][c] += value;
        }
        await check(
          () => runRowKernel(names.MLAEmbeddingBackward, { dRows, ids }, { tableRows: table }),
          gradientBounds,
          [composed],
          [asRows([table, d], dTable)],
        );
        tf.dispose([dRows, ids]);
      });
    }

    for (const [name, shapes] of Object.entries({
      'one number': [[1]],
      'sizes that are no multiples of four': [[3, 5], [2], [70, 300], [9]],
      'sizes that are, and more than a piece': [[256, 128], [8], [4, 4], [200, 100]],
    })) {
      for (const clipNorm of [0.5, 1e4]) {
        it(`MLAAdam: ${name}, clipped to ${clipNorm}`, async () => {
          const rates = { beta1: 0.9, beta2: 0.95, smallest: 1e-8, rate: 0.01, clipNorm };
          const size = shapes.reduce((all, shape) => all + tf.util.sizeFromShape(shape), 0);
          const values = shapes.map((shape, i) => normal(shape, i + 10));
          const gradients = shapes.map((shape, i) => normal(shape, i + 20));
          const [firstMoment, secondMoment] = [normal([size], 1), tf.abs(normal([size], 2))] as tf.Tensor1D[];
          const state = { values, firstMoment, secondMoment };
          const flat = async (tensors: tf.Tensor[]): Promise<number[]> =>
            (await Promise.all(tensors.map(async (each) => [...(await each.data())]))).flat();
          const [x, dX, m, v] = await Promise.all(
            [values, gradients, [firstMoment], [secondMoment]].map(flat),
          );
          const norm = Math.sqrt(dX.reduce((sum, g) => sum + g * g, 0));
          const scaled = dX.map((g) => g * Math.min(1, clipNorm / norm));
          const first = m.map((old, i) => 0.9 * old + 0.1 * scaled[i]);
          const second = v.map((old, i) => 0.95 * old + 0.05 * scaled[i] ** 2);
          const value = x.map((old, i) => old - (0.01 * first[i]) / (Math.sqrt(second[i]) + 1e-8));
          const inShapes = (all: number[]): Rows[] => {
            const rest = [...all];
            return shapes.map((shape) => ({ shape, values: rest.splice(0, tf.util.sizeFromShape(shape)) }));
          };
          const composed = tf.tidy(() => {
            const all = (tensors: tf.Tensor[]): tf.Tensor =>
              tf.concat(tensors.map((each) => tf.reshape(each, [-1])));
            const ofAll = tf.norm(all(gradients));
            const g = tf.mul(all(gradients), tf.minimum(1, tf.div(clipNorm, ofAll)));
            const means = [
              tf.add(tf.mul(firstMoment, 0.9), tf.mul(g, 1 - 0.9)),
              tf.add(tf.mul(secondMoment, 0.95), tf.mul(tf.square(g), 1 - 0.95)),
            ];
            const change = tf.div(tf.mul(means[0], 0.01), tf.add(tf.sqrt(means[1]), 1e-8));
            const parts = tf.split(
              tf.sub(all(values), change),
              shapes.map((shape) => tf.util.sizeFromShape(shape)),
            );
            return [...parts.map((part, i) => tf.reshape(part, shapes[i])), ...means, ofAll];
          });
          await check(
            () => {
              const updated = runAdamKernel(state, gradients, rates);
              return [...updated.values, updated.firstMoment, updated.secondMoment, updated.norm];
            },
            forwardBounds,
            composed,
            [
              ...inShapes(value),
              { shape: [size], values: first },
              { shape: [size], values: second },
              { shape: [], values: [norm] },
            ],
          );
          tf.dispose([...values, ...gradients, firstMoment, secondMoment]);
        });
      }
    }

    it('tensors without elements', async () => {
      const [x, gain] = [tf.zeros([0, 8]), tf.ones([8])];
      const [dX, dGain] = runRowKernel(
        names.MLARMSNormBackward,
        { dY: x, sum: x, gain, dSum: x },
        { eps: 1 },
      );
      expectEqual([dX.shape, [...(await dGain.data())]], [[0, 8], Array<number>(8).fill(0)]);
      const [y, sum] = runRowKernel(names.MLARMSNorm, { x, gain, addend: x }, { eps: 1 });
      expectEqual(
        [y.shape, sum.shape],
        [
          [0, 8],
          [0, 8],
        ],
      );
      const [out] = runRowKernel(names.MLASwiGLU, { gate: x, up: x }, {});
      expectEqual(out.shape, [0, 8]);
      tf.dispose([x, gain, dX, dGain, y, sum, out]);
    });

    it('say what is wrong with tensors that do not fit', () => {
      const [x, table] = [tf.ones([4, 8]), tf.ones([1, 3, 1, 8])];
      const refusals: [() => unknown, string][] = [
        [
          () => runRowKernel(names.MLARMSNorm, { x, gain: tf.ones([7]), addend: absent() }, { eps: 1 }),
          'MLARMSNorm: gain must be [d] for x [..., d]',
        ],
        [
          () =>
            runRowKernel(names.MLARMSNorm, { x, gain: tf.ones([8]), addend: tf.ones([4, 7]) }, { eps: 1 }),
          'MLARMSNorm: addend must be shaped like x or absent',
        ],
        [
          () =>
            runRowKernel(
              names.MLARMSNormBackward,
              { dY: x, sum: x, gain: tf.ones([8]), dSum: tf.ones([1, 8]) },
              { eps: 1 },
            ),
          'MLARMSNormBackward: d_sum must be shaped like sum or absent',
        ],
        [
          () => runRowKernel(names.MLASwiGLU, { gate: x, up: tf.ones([4, 7]) }, {}),
          'MLASwiGLU: all inputs must be of one shape',
        ],
        [
          () =>
            runRowKernel(
              names.MLARotary,
              { nope: absent(), rope: x, cos: table, sin: table },
              { pairs: 'halves', heads: 1 },
            ),
          'MLARotary: cos and sin must be [1 or b, s, 1, dr] with an even dr, for b·s tokens',
        ],
      ];
      for (const [run, message] of refusals) {
        let got = 'no error';
        try {
          tf.tidy(() => void run());
        } catch (error) {
          got = (error as Error).message;
        }
        expectTrue(got.includes(message), `expected "${message}" in: ${got}`);
      }
      tf.dispose([x, table]);
    });
  });
});
