/** tune() on a device: what it refuses, what it times, and that its winners are what runs. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { capabilitiesOf } from '../kernels/webgpu/capabilities.js';
import { compiledKeys } from '../kernels/webgpu/pipeline.js';
import { gpuStopwatch } from '../kernels/webgpu/stopwatch.js';
import { bucketOf } from '../src/core/bucket.js';
import { keepTuningIn } from '../src/core/tuner.js';
import { explain, mlaAttention } from '../src/index.js';
import type { Call, KernelName, Plan } from '../src/index.js';
import { problemOf } from '../src/ops/explain.js';
import { clearTuning, exportTuning, importTuning, setAutoTune, tune } from '../src/webgpu.js';
import type { TuneProgress, TuneRow } from '../src/webgpu.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectRejects, expectTrue } from './support/expect.js';

/** Head sizes that no other test has, so that nothing is compiled before. */
function callOf(s: number, d: number): Call & { op: 'mlaAttention' } {
  const shapes = { q: [1, s, 1, d], k: [1, s, 1, d], v: [1, s, 1, d] };
  return { op: 'mlaAttention', shapes, options: { causal: true } };
}

function planOf({ shapes, options }: Call & { op: 'mlaAttention' }): Plan {
  return explain('mlaAttention', shapes, options);
}

function nameOf({ lane, tile }: Pick<Plan, 'lane' | 'tile'>): string {
  const { LEFT, RIGHT, THREADS, CHUNK, SLICE, QUADS } = tile;
  return `${lane} LEFT=${LEFT} RIGHT=${RIGHT} THREADS=${THREADS} CHUNK=${CHUNK} SLICE=${SLICE} QUADS=${QUADS}`;
}

function keys(): string[] {
  return compiledKeys((tf.backend() as WebGPUBackend).device);
}

async function run({ shapes }: Call & { op: 'mlaAttention' }): Promise<Float32Array> {
  const inputs = [shapes.q, shapes.k, shapes.v].map((shape, index) =>
    tf.randomNormal<tf.Rank.R4>(shape as [number, number, number, number], 0, 1, 'float32', index + 1),
  );
  const out = mlaAttention(inputs[0], inputs[1], inputs[2], { causal: true });
  const values = (await out.data()) as Float32Array;
  tf.dispose([...inputs, out]);
  return values;
}

/** What exportTuning() returns on this device when nothing but the call's forward was tuned. */
function tuningOf(call: Call, winner: string, times: Record<string, number>): string {
  const { key: device } = capabilitiesOf((tf.backend() as WebGPUBackend).device);
  const finding = {
    device,
    kernel: 'MLAAttention',
    bucket: bucketOf(problemOf('test', call)),
    winner,
    times,
  };
  return JSON.stringify({ format: 'tfjs-mla tuning', version: 2, findings: [finding] });
}

/** Tunes a call until two of its candidates were timed. */
async function tuneTwo(call: Call): Promise<{ rows: TuneRow[]; steps: TuneProgress[] }> {
  const controller = new AbortController();
  const steps: TuneProgress[] = [];
  const rows = await tune([call], {
    kernels: ['MLAAttention'],
    signal: controller.signal,
    onProgress: (step) => {
      steps.push(step);
      if (steps.length === 2) controller.abort();
    },
  });
  return { rows, steps };
}

async function until(isTrue: () => boolean, mostMs: number): Promise<void> {
  for (const start = performance.now(); !isTrue();) {
    if (performance.now() - start > mostMs) throw new Error(`not within ${mostMs} ms: ${isTrue.toString()}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe('tune', () => {
  beforeEach(() => keepTuningIn(undefined));
  after(() => keepTuningIn(undefined));

  onEachDevice(({ backend }) => {
    if (backend !== 'webgpu') {
      it('refuses a backend that has nothing to choose from', async () => {
        await expectRejects(
          () => tune([callOf(5, 28)]),
          `tune: required: a backend with candidates to choose from, supported: webgpu, got '${backend}'`,
        );
      });
      return;
    }

    it('refuses what the op itself would refuse, and kernels that do not exist', async () => {
      const bad: Call = { op: 'mlaAttention', shapes: { ...callOf(5, 28).shapes, k: [1, 5, 1, 27] } };
      await expectRejects(
        () => tune([bad]),
        "tune: k must be [b=1, skv, hkv, dqk=28] for layout 'bshd', got [1, 5, 1, 27]",
      );
      await expectRejects(
        () => tune([callOf(5, 28)], { kernels: ['MatMul' as KernelName] }),
        'tune: kernels must be some of MLAAttention, MLADelta, MLAAttentionDq, MLAAttentionDkv, MLAAttentionBackward, MLADecode, MLADecodeDq, MLADecodeDkv, MLACacheAppend, got MatMul',
      );
    });

    it('refuses tensors that the device cannot bind, before it makes any', async () => {
      const { limits } = (tf.backend() as WebGPUBackend).device;
      const most = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
      const s = Math.floor(most / (4 * 256)) + 1;
      await expectRejects(
        () => tune([callOf(s, 256)]),
        `tune: MLAAttention: q [1, ${s}, 1, 256] takes ${4 * 256 * s} bytes, the device binds at most ${most}`,
      );
    });

    it('of nothing, and of problems without numbers, is an empty table', async () => {
      expectEqual(await tune([]), []);
      expectEqual(await tune([callOf(0, 28)]), []);
      expectEqual(await tune([callOf(5, 28)], { kernels: ['MLADelta'] }), []);
    });

    it('times candidates, and what won is what explain tells and what runs, with the same results', async function () {
      this.timeout(240_000);
      const call = callOf(70, 28);
      const expected = await run(call);
      const { numTensors } = tf.memory();
      const { rows, steps } = await tuneTwo(call);
      expectEqual(tf.memory().numTensors, numTensors, 'tensors');
      const plan = planOf(call);
      const winner = rows.find(({ isWinner }) => isWinner)?.candidate;
      expectEqual(rows.length, 2, 'lines');
      expectEqual(
        steps.map(({ done, kernel, candidate }) => ({ done, kernel, candidate })),
        rows.map(({ kernel, candidate }, index) => ({ done: index + 1, kernel, candidate })),
        'progress',
      );
      expectTrue(steps[0].total > 2 && steps.every(({ ms }) => ms > 0), `progress: ${JSON.stringify(steps)}`);
      expectEqual(nameOf(plan), winner, 'the tile that explain tells');
      const told = plan.passedOver.filter(({ reason }) => reason.startsWith('tuned: '));
      expectEqual(
        told.map(({ candidate }) => candidate),
        rows.filter(({ isWinner }) => !isWinner).map(({ candidate }) => candidate),
        'candidates with times',
      );
      expectClose(await run(call), expected);
      expectTrue(keys().includes(plan.cacheKey), `not dispatched: ${plan.cacheKey}`);
    });

    it('an imported winner is dispatched, for all lengths of its bucket with one pipeline', async () => {
      const call = callOf(1000, 12);
      const expected = await run(call);
      const { passedOver, ...usual } = planOf(call);
      const loser = passedOver.find(({ reason }) => reason.startsWith('cost '))?.candidate ?? '';
      importTuning(tuningOf(call, loser, { [loser]: 1, [nameOf(usual)]: 2 }));
      const plan = planOf(call);
      expectEqual(nameOf(plan), loser);
      const told = plan.passedOver.find(({ candidate }) => candidate === nameOf(usual));
      expectEqual(told?.reason, 'tuned: 2 ms, the winner 1 ms');
      const before = keys();
      expectClose(await run(call), expected);
      const added = keys().filter((key) => !before.includes(key));
      expectEqual(added, [plan.cacheKey], 'pipelines');
      await run(callOf(1023, 12));
      await run(callOf(801, 12));
      expectEqual(keys().length, before.length + 1, 'pipelines after other lengths');
      clearTuning();
      expectEqual(nameOf(planOf(call)), nameOf(usual));
    });

    it('a winner that this device does not have is passed over', () => {
      const call = callOf(40, 20);
      const plan = planOf(call);
      importTuning(tuningOf(call, 'LEFT=1', { 'LEFT=1': 1, [nameOf(plan)]: 2 }));
      expectEqual(planOf(call), plan);
    });

    for (const clock of ['timestamps', 'the clock on the wall']) {
      it(`times a stream by ${clock}, and leaves tfjs's own batches as they were`, async () => {
        const gpu = tf.backend() as WebGPUBackend;
        const flag = 'WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE';
        const batch = tf.env().getNumber(flag);
        const hasTimestamps = clock === 'timestamps' && gpu.device.features.has('timestamp-query');
        const watch = gpuStopwatch(gpu, hasTimestamps);
        const x = tf.ones([64, 64]);
        const pending = tf.square(x);
        let runs = 0;
        const ms = await watch.time(() => {
          runs++;
          tf.matMul(x, x).dispose();
        }, 20);
        expectTrue(ms > 0 && (await watch.probe()) > 0, `no time: ${ms}`);
        expectEqual([runs, tf.env().getNumber(flag)], [20, batch]);
        expectEqual((await pending.data())[0], 1);
        watch.dispose();
        tf.dispose([x, pending]);
      });
    }

    it('setAutoTune: calls run at once, and are tuned later, but not while tf.profile measures', async function () {
      this.timeout(240_000);
      const call = callOf(9, 44);
      const bucket = bucketOf(problemOf('test', call));
      // the device is shared with other specs: what they left on it is not ours
      const before = keys();
      const ours = (): string[] =>
        keys().filter((key) => key.startsWith('MLAAttention ') && !before.includes(key));
      setAutoTune(true);
      try {
        let whileMeasured: string[] = [];
        await tf.profile(async () => {
          await run(call);
          await new Promise((resolve) => setTimeout(resolve, 200));
          whileMeasured = ours();
          return tf.scalar(0);
        });
        expectEqual(whileMeasured, [planOf(call).cacheKey], 'pipelines while tf.profile measures');
        // the pipeline of a second candidate: the first was timed
        await until(() => ours().length > 1, 120_000);
      } finally {
        setAutoTune(false);
      }
      const timesOfCall = (): object | undefined => {
        const { findings } = JSON.parse(exportTuning()) as { findings: { bucket: string; times: object }[] };
        return findings.find((finding) => finding.bucket === bucket)?.times;
      };
      await until(() => timesOfCall() !== undefined, 60_000);
      expectTrue(Object.keys(timesOfCall() ?? {}).length >= 2, exportTuning());
    });
  });
});

function expectClose(got: Float32Array, expected: Float32Array): void {
  const worst = Math.max(...got.map((value, index) => Math.abs(value - expected[index])));
  expectTrue(worst < 1e-5, `expected the same up to 1e-5, got a difference of ${worst}`);
}
