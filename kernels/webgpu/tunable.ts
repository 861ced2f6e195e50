/** What the tuner runs: a kernel on inputs of its own, made for a problem, with whichever candidate is asked for. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { Tile, getKernel } from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { bucketOf } from '../../src/core/bucket.js';
import { fail, shapeText } from '../../src/core/errors.js';
import { shapeOf, sharedShapeOf, sizeOf } from '../../src/core/layout.js';
import { MLAAttentionBackward } from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { Kernels, TuneJob } from '../../src/core/register.js';
import { asWinner } from '../../src/core/tuner.js';
import { capabilitiesOf } from './capabilities.js';
import { compile } from './pipeline.js';
import { backendName, checkDevicePrecision, kernelPlan, shadersOf } from './plans.js';
import type { Tunable } from './timing.js';

type AnyKernel = (
  problem: MlaProblem,
  inputs: Record<string, TensorInfo>,
  backend: WebGPUBackend,
) => TensorInfo | TensorInfo[];

/** Undefined for a kernel without a choice, and for a problem without numbers. */
export function tunableFor(
  kernels: Kernels<WebGPUBackend>,
  { kernel, problem }: TuneJob,
  backend: WebGPUBackend,
): Tunable | undefined {
  checkDevicePrecision(kernel, problem);
  const device = capabilitiesOf(backend.device);
  const candidates = kernelPlan(kernel, problem, device)?.candidates;
  const shapes = inputShapes(kernel, problem);
  if (!candidates || device.key === undefined || shapes[0][1].includes(0) || problem.skv === 0)
    return undefined;
  const subject = { device: device.key, kernel, bucket: bucketOf(problem) };
  // inputShapes() names the inputs of this very kernel
  const runKernel = kernels[kernel] as unknown as AnyKernel;
  let inputs: Record<string, TensorInfo> = {};
  const dispose = (): void => {
    for (const { dataId } of Object.values(inputs)) backend.disposeData(dataId);
    inputs = {};
  };
  return {
    ...subject,
    candidates,
    bytes: shapes.reduce((sum, [, shape]) => sum + 4 * sizeOf(shape), 0),
    async prepare() {
      for (const [name, shape] of shapes) checkSize(backend.device, `${kernel}: ${name}`, shape);
      await checkMemory(backend.device, kernel, shapes);
      for (const [name, shape] of shapes) inputs[name] = makeInput(backend, name, shape, problem);
    },
    async compile(candidate) {
      const shaders = asWinner(subject, candidate, () => shadersOf(kernel, problem, device));
      await Promise.all(shaders.map((shader) => compile(backend.device, shader)));
    },
    run(candidate) {
      const outputs = asWinner(subject, candidate, () => runKernel(problem, inputs, backend));
      for (const { dataId } of [outputs].flat()) backend.disposeData(dataId);
    },
    dispose,
  };
}

/** The inputs of a kernel by name, as src/core/kernelInputs.ts has them. */
function inputShapes(kernel: KernelName, problem: MlaProblem): [string, number[]][] {
  const { op, layout, b, hq, hkv, sq, skv, dn, dr, dv, hasQLengths, hasKvLengths } = problem;
  const rows = (d: number): number[] => shapeOf({ b, s: sq, h: hq, d }, layout);
  const keys = (d: number): number[] => shapeOf({ b, s: skv, h: hkv, d }, layout);
  const lengths = (isThere: boolean): number[] => [isThere ? b : 0];
  const forward: [string, number[]][] =
    op === 'mlaDecode'
      ? [
          ['qLatent', rows(dn)],
          ['qRope', rows(dr)],
          ['cKv', [b, skv, dn]],
          ['kRope', [b, skv, dr]],
        ]
      : [
          ['q', rows(dn + dr)],
          ['k', keys(dn)],
          ['v', keys(dv)],
          ['kRope', dr > 0 ? sharedShapeOf({ b, s: skv, d: dr }, layout) : [0]],
          ['qLengths', lengths(hasQLengths)],
        ];
  forward.push(['kvLengths', lengths(hasKvLengths)]);
  if (!/(Dq|Dkv|Backward)$/.test(kernel)) return forward;
  const stats = [b, hq, sq];
  const backward: [string, number[]][] = [...forward, ['dOut', rows(dv)], ['lse', stats]];
  return kernel === MLAAttentionBackward
    ? [...backward, ['out', rows(dv)], ['dLse', problem.returnLse ? stats : [0]]]
    : [...backward, ['delta', stats]];
}

function checkSize({ limits }: GPUDevice, what: string, shape: number[]): void {
  const most = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
  const bytes = 4 * sizeOf(shape);
  if (bytes > most) {
    fail('tune', `${what} ${shapeText(shape)} takes ${bytes} bytes, the device binds at most ${most}`);
  }
}

/** Asks for the memory before anything is enqueued: a command on a buffer that was not granted would fail others' too. */
async function checkMemory(
  device: GPUDevice,
  kernel: KernelName,
  shapes: [string, number[]][],
): Promise<void> {
  // outputs and scratch are about as large as the inputs
  const sizes = [...shapes, ...shapes].map(([, shape]) => 4 * sizeOf(shape)).filter((size) => size > 0);
  device.pushErrorScope('out-of-memory');
  const buffers = sizes.map((size) => device.createBuffer({ size, usage: GPUBufferUsage.STORAGE }));
  const error = await device.popErrorScope();
  for (const buffer of buffers) buffer.destroy();
  if (error) fail('tune', `${kernel}: the device has no memory for tensors of this size: ${error.message}`);
}

/** All rows and keys exist; all other inputs are random, since a GPU is faster on zeros. */
function makeInput(backend: WebGPUBackend, name: string, shape: number[], problem: MlaProblem): TensorInfo {
  const size = sizeOf(shape);
  if (name === 'qLengths' || name === 'kvLengths') {
    const length = name === 'qLengths' ? problem.sq : problem.skv;
    return backend.makeTensorInfo(shape, 'int32', new Int32Array(size).fill(length));
  }
  const most = 4096;
  const random = Float32Array.from({ length: Math.min(size, most) }, () => 2 * Math.random() - 1);
  if (size <= most) return backend.makeTensorInfo(shape, 'float32', random);
  // numbers for a large tensor would take the CPU seconds: the GPU repeats a few, a little beyond the end
  const x = backend.makeTensorInfo([most], 'float32', random);
  const attrs = { reps: [Math.ceil(size / most)] };
  const tiled = getKernel(Tile, backendName).kernelFunc({ inputs: { x }, backend, attrs }) as TensorInfo;
  backend.disposeData(x.dataId);
  return { ...tiled, shape };
}
