/** What the benchmarks compute with; speed itself is never tested. */
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
// the gradients of tfjs's own ops
import '@tensorflow/tfjs-layers';
import { lossAndGradients } from '../demo/shared/trainer.js';
import { presets } from '../demo/shared/presets.js';
import { DeepseekModel } from '../src/models.js';
import { SteadyClock } from './bench/clock.js';
import { causalMask, composedFullForm } from './bench/composed.js';
import type { Figure } from './bench/figure.js';
import { measureStreams } from './bench/figure.js';
import { normals } from './bench/inputs.js';
import { contributed, encodeModel } from './bench/onnxModel.js';
import { askAll, parseAnswer, PeerProgram } from './bench/peers.js';
import { callTable, kernelTable, trainingTable, withRatios } from './bench/report.js';
import type { Line } from './bench/report.js';
import { attentionShapes, scoresTooLarge } from './bench/shapes.js';
import type { TrainingLine } from './bench/training.js';
import { expectClose, gradientBounds } from './support/compare.js';
import { expectEqual, expectThrows, expectTrue } from './support/expect.js';
import { allowSavedTensors } from './support/onDevice.js';
import { messages, readMessage, texts } from './support/protobuf.js';

const figure = (wallMs: number, gpuMs?: number): Figure => ({
  wallMs,
  spreadMs: [wallMs * 0.9, wallMs * 1.1],
  gpuMs,
  isSlow: false,
});

describe('bench', () => {
  allowSavedTensors();
  describe('steady clock', () => {
    /** A figure that counts its attempts, between probes that take these times. */
    const attempt = async (clock: SteadyClock): Promise<unknown> => {
      let attempts = 0;
      return clock.steadily(async () => ++attempts);
    };
    const clockOf = (probes: number[]): SteadyClock =>
      new SteadyClock({ heat: async () => undefined, probe: async () => probes.shift() ?? NaN });

    it('takes the first figure between two good probes', async () => {
      expectEqual(await attempt(clockOf([1, 1.05])), { value: 1, isSlow: false });
    });

    it('repeats while a probe is slow, before or after', async () => {
      expectEqual(await attempt(clockOf([1, 4, 4, 1, 1.1, 1])), { value: 3, isSlow: false });
    });

    it('remembers its best probe from figure to figure', async () => {
      const clock = clockOf([1, 1, 2, 2, 1, 1]);
      expectEqual(await attempt(clock), { value: 1, isSlow: false });
      expectEqual(await attempt(clock), { value: 2, isSlow: false });
    });

    it('gives up after six attempts with the one that had the quickest probes', async () => {
      const slow = [5, 5, 5, 5, 3, 2, 5, 5, 5, 5, 5, 5];
      const clock = clockOf([1, 1, ...slow]);
      await attempt(clock);
      expectEqual(await attempt(clock), { value: 3, isSlow: true });
    });
  });

  it('a figure is the median of five streams, with their spread', async () => {
    const times = [9, 200, 5, 3, 4, 2, 6]; // the first two warm up, and say how many calls make a stream
    const calls: number[] = [];
    const stream = async (count: number): Promise<number> => {
      calls.push(count);
      return times.shift() ?? NaN;
    };
    const clock = new SteadyClock({ heat: async () => undefined, probe: async () => 1 });
    const { wallMs, spreadMs, gpuMs } = await measureStreams(stream, clock, async (repeats) => repeats);
    expectEqual(
      { wallMs, spreadMs, gpuMs, calls },
      {
        wallMs: 4,
        spreadMs: [2, 6],
        gpuMs: 5,
        calls: [1, 1, 5, 5, 5, 5, 5],
      },
    );
  });

  it('streams of short calls are longer, since each ends with a wait', async () => {
    const calls: number[] = [];
    const stream = async (count: number): Promise<number> => {
      calls.push(count);
      return 0.5;
    };
    const clock = new SteadyClock({ heat: async () => undefined, probe: async () => 1 });
    const { gpuMs } = await measureStreams(stream, clock, async (repeats) => repeats);
    expectEqual(new Set(calls), new Set([1, 40]), 'calls of a stream');
    expectEqual(gpuMs, 20, 'repeats of the GPU time');
  });

  it('inputs are normal, and go on where the last ones ended', () => {
    const values = normals(2_500_000);
    const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
    const deviation = Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length);
    expectTrue(Math.abs(mean) < 0.01 && Math.abs(deviation - 1) < 0.01, `got ${mean}, ${deviation}`);
    expectEqual(values.slice(0, 3), values.slice(1_000_003, 1_000_006));
    expectTrue(normals(1)[0] !== values[0], 'expected two tensors to differ');
  });

  it('composed attention in the layer gives the same loss and gradients as ours', async () => {
    await tf.setBackend('cpu');
    const model = new DeepseekModel(presets.tiny.model);
    const ids = tf.tensor2d([Array.from({ length: 9 }, (_, i) => (i * 37) % 256)], [1, 9], 'int32');
    const targets = tf.tensor2d([Array.from({ length: 9 }, (_, i) => (i * 59) % 256)], [1, 9], 'int32');
    const run = (): tf.Tensor[] => {
      const { loss, gradients } = lossAndGradients(model, ids, targets);
      return [loss, ...gradients];
    };
    const ours = tf.tidy(run);
    const mask = causalMask(9, 9);
    for (const { attention } of model.layers) attention.fullForm = composedFullForm(mask);
    const composed = tf.tidy(run);
    const data = (x: tf.Tensor): { shape: number[]; values: Float32Array } => ({
      shape: x.shape,
      values: x.dataSync<'float32'>(),
    });
    ours.forEach((x, i) => expectClose(`tensor ${i}`, data(x), data(composed[i]), gradientBounds));
    tf.dispose([ours, composed, mask, ids, targets]);
    model.dispose();
  });

  it('scores that do not fit are named', () => {
    const [first] = attentionShapes.paper;
    const last = attentionShapes.paper[attentionShapes.paper.length - 1];
    expectEqual(scoresTooLarge(first, 4), undefined);
    expectEqual(scoresTooLarge(last, 4), 'its scores would take 8.6 GB');
    expectEqual(scoresTooLarge(last, 2), 'its scores would take 4.3 GB');
  });

  it('an ONNX model has the fields of onnx.proto3', () => {
    const bytes = encodeModel({
      inputs: [{ name: 'q', type: 'float16', shape: [1, 300] }],
      outputs: [{ name: 'out', type: 'float32', shape: [2] }],
      nodes: [
        {
          operator: 'MultiHeadAttention',
          domain: contributed,
          inputs: ['q', 'k'],
          outputs: ['out'],
          integers: { num_heads: 128 },
          floats: { scale: 0.25 },
        },
      ],
    });
    const model = readMessage(bytes);
    expectEqual(model.get(1), [9]);
    const operatorSets = messages(model, 8).map((set) => [texts(set, 1), set.get(2)]);
    expectEqual(operatorSets, [
      [[''], [20]],
      [['com.microsoft'], [1]],
    ]);
    const [graph] = messages(model, 7);
    const [node] = messages(graph, 1);
    expectEqual(
      [1, 2, 4, 7].map((field) => texts(node, field)),
      [['q', 'k'], ['out'], ['MultiHeadAttention'], ['com.microsoft']],
    );
    const attributes = messages(node, 5).map((attribute) => [
      texts(attribute, 1),
      attribute.get(2),
      attribute.get(3),
      attribute.get(20),
    ]);
    expectEqual(attributes, [
      [['scale'], [0.25], undefined, [1]],
      [['num_heads'], undefined, [128], [2]],
    ]);
    const tensors = [...messages(graph, 11), ...messages(graph, 12)].map((info) => {
      const [type] = messages(messages(info, 2)[0], 1);
      return [texts(info, 1), type.get(1), messages(messages(type, 2)[0], 1).map((dim) => dim.get(1))];
    });
    expectEqual(tensors, [
      [['q'], [10], [[1], [300]]],
      [['out'], [1], [[2]]],
    ]);
  });

  describe('peers', () => {
    const result = { peer: 'cuDNN SDPA bf16', wallMs: 2, spreadMs: [1, 3], gpuMs: 1, isSlow: false };
    const answer = { versions: { torch: '2' }, results: { forward: [result, { peer: 'x', skipped: 'no' }] } };
    const request = { op: 'attention', isSoftware: true, ...attentionShapes.small[0] } as const;

    it('the last line of what they print is their answer', () => {
      expectEqual(parseAnswer(`a warning\n${JSON.stringify(answer)}\n`), answer);
      expectEqual(parseAnswer('{"absent": "python3 has no torch"}'), { absent: 'python3 has no torch' });
    });

    it('anything else is told apart', () => {
      expectThrows(() => parseAnswer('oops'), 'expected JSON in the last line, got "oops"');
      for (const bad of [
        { versions: {} },
        { versions: {}, results: { forward: [{ ...result, wallMs: '2' }] } },
        { versions: {}, results: { forward: [{ ...result, spreadMs: [1] }] } },
        { versions: {}, results: { forward: [{ wallMs: 2 }] } },
      ]) {
        const text = JSON.stringify(bad);
        expectThrows(() => parseAnswer(text), `expected {absent} or {versions, results}, got ${text}`);
      }
    });

    it('a program is asked, one that fails or is absent is skipped with its reason', async () => {
      const node = (name: string, code: string): PeerProgram =>
        new PeerProgram(name, process.execPath, ['--eval', code, '--']);
      const programs = [
        node('good', `console.log(${JSON.stringify(JSON.stringify(answer))})`),
        node('absent', `console.log('{"absent": "not installed"}')`),
        node('broken', `throw new RangeError('too large')`),
        node('ended', `console.error('first\\nlast'); process.exit(1)`),
        new PeerProgram('nowhere', 'no-such-program', []),
      ];
      for (let n = 0; n < 2; n++) {
        const results = await askAll(programs, request);
        expectEqual(results('forward'), [
          ...answer.results.forward,
          { peer: 'absent', skipped: 'not installed' },
          { peer: 'broken', skipped: 'RangeError: too large' },
          { peer: 'ended', skipped: 'last' },
          { peer: 'nowhere', skipped: 'there is no no-such-program' },
        ]);
      }
      expectEqual(programs[0].versions, { torch: '2' });
    });
  });

  describe('report', () => {
    const line: Line = {
      kernel: 'forward',
      shape: 'B1 H4 S64 192/128',
      lane: 'T1 float32',
      ours: figure(0.5, 0.25),
      flop: 1e9,
      bytes: 1e6,
      peers: [
        { peer: 'tfjs composed', ...figure(1, 1) },
        { peer: 'torch', skipped: 'not there' },
      ],
    };
    const second: Line = {
      ...line,
      kernel: 'decode',
      ours: { ...figure(2000), isSlow: true },
      peers: [{ peer: 'onnx', ...figure(1000, 1) }],
    };

    it('a column a peer, GPU time in brackets, ratios likewise, and who was skipped', () => {
      expectEqual(kernelTable([line, second]).split('\n'), [
        '| kernel  | shape             | lane       | ms (GPU)        | spread      | TFLOP/s  | GB/s     | tfjs composed | ratio         | onnx        | ratio  |',
        '|---------|-------------------|------------|-----------------|-------------|----------|----------|---------------|---------------|-------------|--------|',
        '| forward | B1 H4 S64 192/128 | T1 float32 | 0.500 (0.250)   | 0.450-0.550 | 4.00     | 4.00     | 1.00 (1.00)   | 2.00x (4.00x) |             |        |',
        '| decode  | B1 H4 S64 192/128 | T1 float32 | 2000 slow clock | 1800-2200   | 0.000500 | 0.000500 |               |               | 1000 (1.00) | 0.500x |',
        '',
        '- skipped torch: not there (forward B1 H4 S64 192/128)',
      ]);
      expectTrue(
        kernelTable([line]).endsWith('\n- skipped torch: not there (everywhere)'),
        'expected no list of all lines',
      );
    });

    it('JSON has the ratios', () => {
      const { peers } = withRatios(line) as Line;
      expectEqual(peers, [{ ...line.peers[0], ratio: { wall: 2, gpu: 4 } }, line.peers[1]]);
    });

    it('tokens a second and peak memory of the training step', () => {
      const training: TrainingLine = {
        name: 'large B16 S512',
        lane: 'T1 float32',
        tokens: 30,
        ours: { peer: 'ours', ...figure(10), peakBytes: 5e6 },
        peers: [
          { peer: 'tfjs composed', ...figure(20), peakBytes: 5e6 },
          { peer: 'torch', ...figure(20), peakBytes: 7e6, tensorBytes: 6e6 },
        ],
      };
      const skipped: TrainingLine = {
        ...training,
        peers: [
          { peer: 'tfjs composed', skipped: 'would take 52 GB' },
          { peer: 'torch', skipped: 'no CUDA' },
        ],
      };
      const failed: TrainingLine = { ...training, ours: { peer: 'ours', skipped: 'out of memory' } };
      expectEqual((withRatios(training) as TrainingLine).peers[1], {
        ...training.peers[1],
        ratio: { wall: 2, gpu: undefined },
      });
      expectEqual(trainingTable([training, skipped, failed]).split('\n').slice(2), [
        '| large B16 S512 | T1 float32 | 3000     | 5  | 1500          | 5  | 2.00x | 1500  | 7 (6) | 2.00x |',
        '| large B16 S512 | T1 float32 | 3000     | 5  |               |    |       |       |       |       |',
        '| large B16 S512 | T1 float32 |          |    | 1500          | 5  |       | 1500  | 7 (6) |       |',
        '',
        '- skipped tfjs composed: would take 52 GB (training step large B16 S512)',
        '- skipped torch: no CUDA (training step large B16 S512)',
        '- skipped ours: out of memory (training step large B16 S512)',
      ]);
    });

    it('calls beside the first of them', () => {
      const calls = [
        { name: 'TopKV2', inputs: 2, outputs: 2, us: 10 },
        { name: 'MLADelta', inputs: 3, outputs: 1, us: 9 },
      ];
      expectEqual(callTable(calls).split('\n').slice(2), [
        '| TopKV2   | 2, 2            | 10.0 | 1.00x     |',
        '| MLADelta | 3, 1            | 9.00 | 0.900x    |',
      ]);
    });
  });
});
