/** The WebGPU runtime: what goes wrong on the GPU becomes an exception, and results keep their place among tfjs's ops. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { compile, compiledKeys, dispatch } from '../kernels/webgpu/pipeline.js';
import type { Shader } from '../kernels/webgpu/pipeline.js';
import { installDevice } from '../src/device/installDevice.js';
import { explain, mlaAttention, warmup } from '../src/index.js';
import '../src/webgpu.js';
import { onEachDevice } from './support/devices.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { takeGpuErrors } from './support/gpuErrors.js';

const doubling: Shader = {
  cacheKey: 'doubling {}',
  access: ['read', 'write'],
  wgsl: () => `
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> u: vec4f;
@compute @workgroup_size(1)
fn main(@builtin(global_invocation_id) id: vec3u) { y[id.x] = x[id.x] * u.x; }`,
};
// line 4 uses a name that does not exist
const broken: Shader = {
  ...doubling,
  cacheKey: 'broken {}',
  wgsl: () => doubling.wgsl().replace('var<uniform> u: vec4f', 'var<uniform> v: vec4f'),
};

function backendOf(): WebGPUBackend {
  return tf.backend() as WebGPUBackend;
}

/** x times `factor` through a shader, as a tensor. */
function run(shader: Shader, x: tf.Tensor, factor: number): tf.Tensor {
  const backend = backendOf();
  const y = backend.makeTensorInfo(x.shape, 'float32');
  dispatch(backend, shader, [x, y], new Float32Array([factor, 0, 0, 0]).buffer, [x.size, 1, 1]);
  return tf.engine().makeTensorFromTensorInfo(y);
}

async function messageOf(run: () => Promise<unknown>): Promise<string> {
  try {
    await run();
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error('expected an error, got none');
}

async function silently<T>(run: () => Promise<T>): Promise<{ result: T; logged: string }> {
  const { error } = console;
  const lines: string[] = [];
  console.error = (line: string) => lines.push(line);
  try {
    return { result: await run(), logged: lines.join('\n') };
  } finally {
    console.error = error;
  }
}

const call = { q: [1, 5, 2, 8], k: [1, 5, 2, 8], v: [1, 5, 2, 4] };

describe('WebGPU pipeline', () => {
  onEachDevice((device) => {
    if (device.backend !== 'webgpu') return;

    it('runs between tfjs ops in order, across submits', async () => {
      const x = tf.range(0, 7);
      const result = tf.tidy(() => {
        let y: tf.Tensor = x;
        for (let n = 0; n < 20; n++) y = run(doubling, tf.add(y, tf.onesLike(y)), 0.5);
        return y;
      });
      const expected = await x.array().then((values) =>
        values.map((value) => {
          for (let n = 0; n < 20; n++) value = (value + 1) / 2;
          return value;
        }),
      );
      expectEqual(await result.array(), expected.map(Math.fround));
      tf.dispose([x, result]);
    });

    it('runs without the private members of the backend', async () => {
      const members = backendOf() as unknown as { dispatchCountInPass: number | undefined };
      const { dispatchCountInPass } = members;
      members.dispatchCountInPass = undefined;
      const x = tf.range(0, 5);
      const before = tf.square(x);
      const y = run(doubling, before, 2);
      const after = tf.add(y, x);
      members.dispatchCountInPass = dispatchCountInPass;
      expectEqual(await after.array(), [0, 3, 10, 21, 36]);
      tf.dispose([x, before, y, after]);
    });

    it('is seen by tf.time and tf.profile', async () => {
      const make = (shape: number[]): tf.Tensor4D => tf.randomNormal(shape as tf.Tensor4D['shape']);
      const inputs = [make(call.q), make(call.k), make(call.v)] as const;
      const { kernels } = await tf.profile(() => mlaAttention(...inputs));
      expectTrue(
        kernels.some(({ name }) => name === 'MLAAttention'),
        'no MLAAttention in the profile',
      );
      const { kernelMs } = await tf.time(() => mlaAttention(...inputs).dispose());
      const isTimed = backendOf().device.features.has('timestamp-query');
      expectTrue(!isTimed || Number(kernelMs) > 0, 'kernelMs is not above 0');
      tf.dispose([...inputs]);
    });

    it('dispatches with the very cache key that explain tells', async () => {
      const { cacheKey } = explain('mlaAttention', call, { causal: true });
      const make = (shape: number[]): tf.Tensor4D => tf.randomNormal(shape as tf.Tensor4D['shape']);
      const { logged } = await silently(() =>
        tf.profile(() => mlaAttention(make(call.q), make(call.k), make(call.v), { causal: true })),
      );
      expectEqual(logged, '');
      expectTrue(
        compiledKeys(backendOf().device).includes(cacheKey),
        `${cacheKey} was not dispatched, but ${compiledKeys(backendOf().device).join('\n')}`,
      );
    });

    it('reads an integer tensor that was cast to float32', async () => {
      const integers = tf.tensor4d([1, -2, 3, 4, 0, 2, 5, -1], [1, 2, 1, 4], 'int32');
      const floats = tf.tensor4d(await integers.data(), [1, 2, 1, 4], 'float32');
      const cast = tf.cast(integers, 'float32');
      const got = mlaAttention(cast, cast, cast);
      const expected = mlaAttention(floats, floats, floats);
      expectEqual(await got.data(), await expected.data());
      tf.dispose([integers, floats, cast, got, expected]);
    });

    it('has no new pipelines for other lengths', () => {
      const attend = (sq: number, skv: number): void => {
        tf.tidy(() => {
          const make = (s: number, d: number): tf.Tensor4D => tf.randomNormal<tf.Rank.R4>([1, s, 2, d]);
          mlaAttention(make(sq, 8), make(skv, 8), make(skv, 4), { kvLengths: [skv - 1], causal: true });
        });
      };
      attend(5, 6);
      const before = compiledKeys(backendOf().device).length;
      attend(6, 7);
      attend(7, 5);
      expectEqual(compiledKeys(backendOf().device).length, before);
    });

    it('warm-up compiles forward and gradients, tells its progress, and runs nothing', async () => {
      const shapes = { q: [1, 3, 2, 20], k: [1, 3, 2, 20], v: [1, 3, 2, 12] };
      const progress: string[] = [];
      const { numTensors } = tf.memory();
      await warmup([{ op: 'mlaAttention', shapes }], (done, total) => progress.push(`${done}/${total}`));
      expectEqual(progress, ['1/4', '2/4', '3/4', '4/4']);
      expectEqual(tf.memory().numTensors, numTensors);
      const { cacheKey } = explain('mlaAttention', shapes, {}, 'MLAAttentionDkv');
      expectTrue(compiledKeys(backendOf().device).includes(cacheKey), `${cacheKey} is not compiled`);
    });

    it('a shader that does not compile: warm-up rejects with its line', async () => {
      const message = await messageOf(() => compile(backendOf().device, broken));
      expectTrue(/^broken \{\}: 6:\d+ unresolved value 'u'/.test(message), message);
      expectEqual(await takeGpuErrors(), []);
    });

    it('a shader that does not compile: without warm-up the next call throws, and it is logged', async () => {
      const x = tf.range(0, 3);
      const { result, logged } = await silently(async () => {
        const y = run({ ...broken, cacheKey: 'broken {"stock":1}' }, x, 2);
        await y.data();
        const message = await messageOf(async () => run(doubling, x, 2));
        y.dispose();
        return message;
      });
      expectTrue(/^doubling: an earlier GPU command was invalid .*unresolved value 'u'/.test(result), result);
      expectTrue(logged.includes("unresolved value 'u'"), logged);
      await takeGpuErrors();
      // x itself may have been uploaded in the batch that was dropped
      const fresh = tf.range(0, 3);
      const z = run(doubling, fresh, 2);
      expectEqual(await z.array(), [0, 2, 4]);
      tf.dispose([x, fresh, z]);
    });
  });

  onEachDevice(
    (device) => {
      if (device.backend !== 'webgpu') return;

      it('our own device has the adapter’s limits and gives the same results', async () => {
        const x = tf.range(0, 3);
        const y = run(doubling, x, 3);
        expectEqual(await y.array(), [0, 3, 6]);
        tf.dispose([x, y]);
      });

      it('a shader that does not compile: reading its result rejects with its line', async () => {
        const x = tf.range(0, 3);
        const { result } = await silently(async () => {
          const y = run({ ...broken, cacheKey: 'broken {"own":1}' }, x, 2);
          const message = await messageOf(() => y.data());
          y.dispose();
          return message;
        });
        expectTrue(
          /^webgpu: an earlier GPU command was invalid .*6:\d+ unresolved value 'u'/.test(result),
          result,
        );
        await takeGpuErrors();
        x.dispose();
      });

      it('a device that is lost: the next call says so', async () => {
        const x = tf.range(0, 3);
        run(doubling, x, 3).dispose();
        const { device } = backendOf();
        device.destroy();
        await device.lost;
        const message = await messageOf(async () => run(doubling, x, 2));
        expectTrue(message.startsWith('doubling: the GPU device was lost (destroyed)'), message);
        await installDevice();
      });

      it('installDevice: no WebGPU is a clear error', async () => {
        const nowhere = { requestAdapter: () => Promise.resolve(null) } as unknown as GPU;
        expectEqual(
          await messageOf(() => installDevice({ gpu: nowhere })),
          'installDevice: required: a WebGPU adapter, supported: none found',
        );
      });
    },
    { own: true },
  );
});
