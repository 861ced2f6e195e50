/** Plans of TensorFlow's ops on a GPU, which need none: the native library makes them from numbers. */
import { planOnGpu, requireCuda } from '../kernels/tensorflow/gpu.js';
import { nativeLibrary } from '../kernels/tensorflow/native.js';
import type { CudaReport, NativeReport } from '../kernels/tensorflow/native.js';
import type { KernelName } from '../src/core/names.js';
import type { Precision } from '../src/core/precision.js';
import { problemOf } from '../src/ops/explain.js';
import { expectEqual, expectThrows, expectTrue } from './support/expect.js';

const h200: CudaReport = {
  device: 'NVIDIA H200',
  capability: 90,
  multiprocessors: 132,
  driver: 13000,
  images: 13,
};
const a100: CudaReport = { ...h200, device: 'NVIDIA A100', capability: 80, multiprocessors: 108 };
const a10: CudaReport = { ...h200, device: 'NVIDIA A10', capability: 86, multiprocessors: 72 };
const t4: CudaReport = { ...h200, device: 'Tesla T4', capability: 75, multiprocessors: 40 };
const host: NativeReport = { tensorflow: '2.21.0', instructions: 'avx2', threads: 2 };

const sizes = { q: [1, 1024, 16, 192], k: [1, 1024, 16, 192], v: [1, 1024, 16, 128] };
const odd = { q: [1, 5, 2, 44], k: [1, 6, 2, 44], v: [1, 6, 2, 20] };
const shared = { ...sizes, k: [1, 1024, 16, 128], kRope: [1, 1024, 64] };
const lanes = ['sm_90a', 'sm_80', 'general'];

function plan(kernel: KernelName, shapes: typeof sizes, precision: Precision, cuda: CudaReport) {
  const options = { causal: true, precision };
  return planOnGpu(kernel, problemOf('test', { op: 'mlaAttention', shapes, options }), cuda);
}

describe('gpuPlans', () => {
  it('want a GPU that there are kernels for', () => {
    expectEqual(requireCuda({ ...host, cuda: h200 }), h200);
    expectThrows(
      () => requireCuda({ ...host, cuda: t4 }),
      'tfjs-mla/node: required: a GPU of compute capability 8.0 or newer, got Tesla T4 with 7.5; set CUDA_VISIBLE_DEVICES=-1 to compute on the CPU, or CUDA_VISIBLE_DEVICES to another GPU',
    );
    expectThrows(
      () => requireCuda({ ...host, noCuda: 'CUDA: this build has no kernels for GPUs' }),
      'tfjs-mla/node: required: our kernels on the GPU that TensorFlow uses, missing: CUDA: this build has no kernels for GPUs; npx tfjs-mla doctor tells more, or set CUDA_VISIBLE_DEVICES=-1 to compute on the CPU',
    );
  });

  if (!nativeLibrary()) {
    it.skip('gpuPlans: no native library: npm run build:native makes it');
    return;
  }

  it('name a lane, and why those before it do not run', () => {
    for (const [cuda, expected] of [
      [h200, 'sm_90a'],
      [a100, 'sm_80'],
    ] as const) {
      for (const kernel of ['MLAAttention', 'MLAAttentionDq', 'MLAAttentionDkv'] as const) {
        const { lane, tile, cacheKey, passedOver } = plan(kernel, sizes, 'bfloat16', cuda);
        expectEqual(lane, expected);
        expectTrue(tile.THREADS >= 32 && tile.LAUNCHES >= 1, `no launch: ${JSON.stringify(tile)}`);
        expectTrue(cacheKey.includes('_bf16_'), `expected kernels for bfloat16, got ${cacheKey}`);
        const before = lanes.slice(0, lanes.indexOf(lane));
        expectEqual(
          passedOver.map(({ candidate }) => candidate),
          before,
        );
      }
      const { lane, cacheKey } = plan('MLAAttentionDkv', shared, 'bfloat16', cuda);
      expectEqual(lane, expected, 'whose sums over heads are kernels of sm_80');
      expectTrue(cacheKey.endsWith('sm80/mla_attention_dkv mla_attention_dkv_rope'), cacheKey);
      expectEqual(plan('MLADelta', sizes, 'bfloat16', cuda).lane, 'sm_80');
      expectEqual(plan('MLAAttention', odd, 'bfloat16', cuda).lane, 'general');
    }
    const [hopper] = plan('MLAAttention', sizes, 'bfloat16', a100).passedOver;
    expectEqual(hopper, { candidate: 'sm_90a', reason: 'not for compute capability 8.0' });
  });

  it('multiply floats on tensor cores where those are faster than multiply-adds', () => {
    for (const kernel of ['MLAAttention', 'MLAAttentionDq', 'MLAAttentionDkv'] as const) {
      for (const [precision, type] of [
        ['float32', '_f32_'],
        ['tf32', '_tf32_'],
      ] as const) {
        for (const [cuda, expected] of [
          [h200, precision === 'float32' ? 'sm_90a' : 'sm_80'],
          [a100, 'sm_80'],
        ] as const) {
          const { lane, cacheKey } = plan(kernel, shared, precision, cuda);
          expectEqual(lane, expected, `${kernel} in ${precision} on ${cuda.device}`);
          expectTrue(cacheKey.includes(type), `expected a kernel of ${type}, got ${cacheKey}`);
        }
        expectEqual(plan(kernel, shared, precision, a10).lane, 'general');
        expectEqual(plan(kernel, odd, precision, h200).lane, 'general');
      }
    }
  });

  it('have smaller blocks on sm_90 where larger ones would leave multiprocessors idle', () => {
    for (const [rows, blocks] of [
      [1024, '_64'],
      [2048, '_128'],
    ] as const) {
      const long = { q: [1, rows, 16, 192], k: [1, rows, 16, 192], v: [1, rows, 16, 128] };
      for (const kernel of ['MLAAttention', 'MLAAttentionDq', 'MLAAttentionDkv'] as const) {
        const { lane, cacheKey } = plan(kernel, long, 'float32', h200);
        expectEqual(lane, 'sm_90a');
        expectTrue(cacheKey.endsWith(`_f32_192_128${blocks}`), cacheKey);
      }
    }
    const narrow = { q: [1, 1024, 16, 128], k: [1, 1024, 16, 128], v: [1, 1024, 16, 128] };
    expectEqual(plan('MLAAttention', narrow, 'float32', h200).lane, 'sm_80');
  });

  it('say what the products are computed in, and what of that was not asked for', () => {
    const computed = (kernel: KernelName, shapes: typeof sizes, precision: Precision) => {
      const { computePrecision, passedOver } = plan(kernel, shapes, precision, h200);
      const wide = passedOver.find(({ candidate }) => !lanes.includes(candidate))?.candidate;
      return wide ? `${computePrecision} for ${wide}` : computePrecision;
    };
    const all = ['float32', 'tf32', 'float16', 'bfloat16', 'auto'] as const;
    expectEqual(
      all.map((precision) => computed('MLAAttention', sizes, precision)),
      ['float32', 'tf32', 'float16', 'bfloat16', 'bfloat16'],
    );
    const wide = [
      'float32',
      ...['tf32', 'float16', 'bfloat16', 'bfloat16'].map((each) => `float32 for ${each}`),
    ];
    expectEqual(
      all.map((precision) => computed('MLAAttention', odd, precision)),
      wide,
    );
    expectEqual(
      all.map((precision) => computed('MLADelta', sizes, precision)),
      wide,
    );
  });

  it('of all gradients at once are those of delta and of the two, which convert their operands once', () => {
    const launches = (kernel: KernelName, shapes: typeof sizes, precision: Precision, cuda: CudaReport) =>
      plan(kernel, shapes, precision, cuda).cacheKey.split(', ');
    const isConversion = (launch: string) => /^sm[89]0\/(convert|split) /.test(launch);
    for (const cuda of [h200, a100]) {
      for (const precision of ['float32', 'float16', 'bfloat16'] as const) {
        for (const shapes of [sizes, shared, odd]) {
          const [joined, delta, dq, dkv] = (
            ['MLAAttentionBackward', 'MLADelta', 'MLAAttentionDq', 'MLAAttentionDkv'] as const
          ).map((kernel) => launches(kernel, shapes, precision, cuda));
          expectEqual(joined, [...delta, ...dq, ...dkv.filter((launch) => !isConversion(launch))]);
          expectEqual(joined.some(isConversion), shapes !== odd, 'conversions');
        }
      }
    }
    const { lane, computePrecision } = plan('MLAAttentionBackward', shared, 'auto', h200);
    expectEqual([lane, computePrecision], ['sm_90a', 'bfloat16']);
    expectEqual(plan('MLAAttentionBackward', odd, 'auto', h200).lane, 'general', 'whatever delta is of');
  });

  it('of an append to a cache: a copy', () => {
    expectEqual(plan('MLACacheAppend', sizes, 'float32', h200).lane, 'copy');
  });
});
