/**
 * The runtime of our shaders inside tfjs's WebGPU backend, and the only file that knows its private members.
 *
 * A dispatch goes into the compute pass that the backend has open, so that it keeps its place among tfjs's own ops.
 * If the backend does not have the members that this takes, it is submitted by itself, with public members only.
 */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { env } from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { fail } from '../../src/core/errors.js';

/** A shader before it is compiled. */
export interface Shader {
  /** the kernel's name and every constant that is compiled in */
  cacheKey: string;
  /** one entry per binding, in order; a uniform follows behind them */
  access: ('read' | 'write')[];
  wgsl: () => string;
}

interface Pipeline {
  layout: GPUBindGroupLayout;
  pipeline: GPUComputePipeline;
}

interface DeviceState {
  pipelines: Map<string, Pipeline>;
  uniforms: Map<string, GPUBuffer>;
  /** bound in place of zero-size tensors, which have no buffer; a buffer that is written has no other use */
  empty: Record<'read' | 'write', GPUBuffer>;
  /** the first thing that went wrong and was not reported yet */
  failure?: string;
  lost?: string;
  /** checks of shaders that were compiled without warm-up */
  pending: Set<Promise<void>>;
}

const mostUniforms = 4096;
const states = new WeakMap<GPUDevice, DeviceState>();

function stateOf(device: GPUDevice): DeviceState {
  const known = states.get(device);
  if (known) return known;
  const state: DeviceState = {
    pipelines: new Map(),
    uniforms: new Map(),
    empty: { read: emptyBuffer(device), write: emptyBuffer(device) },
    pending: new Set(),
  };
  states.set(device, state);
  device.addEventListener('uncapturederror', (event) => {
    recordFailure(state, (event as GPUUncapturedErrorEvent).error.message);
  });
  void device.lost.then(({ reason, message }) => {
    state.lost = `the GPU device was lost (${reason ?? 'unknown'}): ${message}`;
  });
  return state;
}

function emptyBuffer(device: GPUDevice): GPUBuffer {
  return device.createBuffer({ size: 256, usage: GPUBufferUsage.STORAGE });
}

function recordFailure(state: DeviceState, message: string): void {
  if (state.failure !== undefined) return;
  state.failure = message;
  console.error(`tfjs-mla: GPU error, results since then are invalid: ${message}`);
}

/** Throws what went wrong on the device since the last check, once. */
export function throwFailure(fn: string, device: GPUDevice): void {
  const state = stateOf(device);
  if (state.lost !== undefined) fail(fn, state.lost);
  const { failure } = state;
  if (failure === undefined) return;
  state.failure = undefined;
  fail(fn, `an earlier GPU command was invalid and its results are not usable: ${failure}`);
}

/** Waits until every shader compiled so far has been checked. */
export async function settled(device: GPUDevice): Promise<void> {
  await Promise.all(stateOf(device).pending);
}

/** The cache keys of all pipelines of ours that this device has. */
export function compiledKeys(device: GPUDevice): string[] {
  return [...stateOf(device).pipelines.keys()];
}

function describe(
  device: GPUDevice,
  { cacheKey, access, wgsl }: Shader,
): { module: GPUShaderModule; layout: GPUBindGroupLayout; descriptor: GPUComputePipelineDescriptor } {
  const storage = access.map((kind) => (kind === 'write' ? 'storage' : 'read-only-storage'));
  const layout = device.createBindGroupLayout({
    entries: [...storage, 'uniform'].map((type, binding) => ({
      binding,
      visibility: GPUShaderStage.COMPUTE,
      buffer: { type: type as GPUBufferBindingType },
    })),
  });
  const module = device.createShaderModule({ code: wgsl(), label: cacheKey });
  const descriptor = {
    label: cacheKey,
    layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
    compute: { module, entryPoint: 'main' },
  };
  return { module, layout, descriptor };
}

async function compileError(
  cacheKey: string,
  module: GPUShaderModule,
  scope: Promise<GPUError | null>,
): Promise<string | undefined> {
  const [error, { messages }] = await Promise.all([scope, module.getCompilationInfo()]);
  const lines = messages
    .filter(({ type }) => type === 'error')
    .map(({ lineNum, linePos, message }) => `${lineNum}:${linePos} ${message}`);
  if (lines.length > 0) return `${cacheKey}: ${lines.join('; ')}`;
  return error ? `${cacheKey}: ${error.message}` : undefined;
}

/** Compiles a shader without blocking. Rejects with the line and the message of what is wrong with it. */
export async function compile(device: GPUDevice, shader: Shader): Promise<void> {
  const { pipelines } = stateOf(device);
  if (pipelines.has(shader.cacheKey)) return;
  device.pushErrorScope('validation');
  const { module, layout, descriptor } = describe(device, shader);
  const scope = device.popErrorScope();
  const made = await device.createComputePipelineAsync(descriptor).catch((error: unknown) => String(error));
  const message = await compileError(shader.cacheKey, module, scope);
  if (message !== undefined) throw new Error(message);
  if (typeof made === 'string') throw new Error(`${shader.cacheKey}: ${made}`);
  pipelines.set(shader.cacheKey, { layout, pipeline: made });
}

/** Without warm-up: the pipeline at once, and its errors as soon as the device tells. */
function compileNow(device: GPUDevice, shader: Shader): Pipeline {
  const state = stateOf(device);
  device.pushErrorScope('validation');
  const { module, layout, descriptor } = describe(device, shader);
  const pipeline = device.createComputePipeline(descriptor);
  const check = compileError(shader.cacheKey, module, device.popErrorScope())
    .then((message) => {
      if (message === undefined) return;
      state.pipelines.delete(shader.cacheKey);
      state.failure = undefined;
      recordFailure(state, message);
    })
    .finally(() => state.pending.delete(check));
  state.pending.add(check);
  const compiled = { layout, pipeline };
  state.pipelines.set(shader.cacheKey, compiled);
  return compiled;
}

/** Uniform buffers are never written twice: dispatches that wait in the open pass still read them. */
function uniformBuffer(device: GPUDevice, content: ArrayBuffer): GPUBuffer {
  const { uniforms } = stateOf(device);
  const key = String.fromCharCode(...new Uint16Array(content));
  const known = uniforms.get(key);
  if (known) return known;
  if (uniforms.size >= mostUniforms) uniforms.clear();
  const buffer = device.createBuffer({
    size: content.byteLength,
    usage: GPUBufferUsage.UNIFORM,
    mappedAtCreation: true,
  });
  new Uint8Array(buffer.getMappedRange()).set(new Uint8Array(content));
  buffer.unmap();
  uniforms.set(key, buffer);
  return buffer;
}

/** The private members of WebGPUBackend that a dispatch into its open pass, and timing it, takes. */
export interface OpenPass {
  commandEncoder: GPUCommandEncoder;
  computePassEncoder: GPUComputePassEncoder | null;
  dispatchCountInPass: number;
  commandQueueOwnedIds: WeakSet<object>;
  /** null while nobody measures */
  activeTimers: { name: string; query: Promise<number> }[] | null;
  supportTimestampQuery: boolean;
  querySet: GPUQuerySet | null;
  querySetCount: number;
}

export function openPassOf(backend: WebGPUBackend): OpenPass | undefined {
  const members = backend as unknown as Partial<OpenPass>;
  const isComplete =
    'commandEncoder' in members &&
    'computePassEncoder' in members &&
    typeof members.dispatchCountInPass === 'number' &&
    members.commandQueueOwnedIds !== undefined;
  return isComplete ? (members as OpenPass) : undefined;
}

/**
 * Runs a shader on tensors of the backend, `tensors` in the order of the shader's bindings.
 * Throws when an earlier GPU command turned out to be invalid, or the device is lost.
 */
export function dispatch(
  backend: WebGPUBackend,
  shader: Shader,
  tensors: TensorInfo[],
  uniforms: ArrayBuffer,
  grid: [number, number, number],
): void {
  const { device } = backend;
  const fn = shader.cacheKey.split(' ')[0];
  throwFailure(fn, device);
  if (grid.includes(0)) return;
  checkGrid(fn, device, grid);
  const bound = tensors.filter(({ shape }) => !shape.includes(0));
  // an upload may end the open pass: all of them come first
  for (const { dataId } of bound) backend.uploadToGPU(dataId);
  const state = stateOf(device);
  const { layout, pipeline } = state.pipelines.get(shader.cacheKey) ?? compileNow(device, shader);
  if (env().getBool('WEBGPU_ENGINE_COMPILE_ONLY')) return;

  const buffers = tensors.map(({ dataId, shape }, index) =>
    shape.includes(0)
      ? state.empty[shader.access[index]]
      : (backend.tensorMap.get(dataId).resource as GPUBuffer),
  );
  const group = device.createBindGroup({
    layout,
    entries: [...buffers, uniformBuffer(device, uniforms)].map((buffer, binding) => ({
      binding,
      resource: { buffer },
    })),
  });
  tensors.forEach(({ dataId, shape }, index) => {
    if (shader.access[index] === 'read' || shape.includes(0)) return;
    // what a read has kept on the CPU is out of date
    (backend.tensorMap.get(dataId) as { values: unknown }).values = null;
  });
  const encode = (pass: GPUComputePassEncoder): void => {
    pass.setPipeline(pipeline);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...grid);
  };

  backend.ensureCommandEncoderReady();
  const open = openPassOf(backend);
  if (open) encodeInOpenPass(backend, open, shader.cacheKey, bound, encode);
  else submitAlone(backend, encode);
}

function encodeInOpenPass(
  backend: WebGPUBackend,
  open: OpenPass,
  label: string,
  bound: TensorInfo[],
  encode: (pass: GPUComputePassEncoder) => void,
): void {
  const { activeTimers } = open;
  if (activeTimers) {
    backend.endComputePassEncoder();
    open.computePassEncoder = beginTimedPass(backend.device, open);
  } else {
    open.computePassEncoder ??= open.commandEncoder.beginComputePass();
  }
  encode(open.computePassEncoder);
  for (const { dataId } of bound) open.commandQueueOwnedIds.add(dataId);
  open.dispatchCountInPass++;
  if (activeTimers) {
    backend.endComputePassEncoder();
    activeTimers.push({ name: label, query: backend.getQueryTime() });
  } else if (open.dispatchCountInPass >= env().getNumber('WEBGPU_DEFERRED_SUBMIT_BATCH_SIZE')) {
    backend.endComputePassEncoder();
    backend.submitQueue();
  }
}

/** What tf.time and tf.profile measure with: a pass per dispatch between two timestamps. */
function beginTimedPass(device: GPUDevice, open: OpenPass): GPUComputePassEncoder {
  if (!open.supportTimestampQuery) return open.commandEncoder.beginComputePass();
  open.querySet ??= device.createQuerySet({ type: 'timestamp', count: open.querySetCount });
  // the installed WebGPU types are older than this form of timestampWrites
  const timestampWrites = { querySet: open.querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
  return open.commandEncoder.beginComputePass({
    timestampWrites,
  });
}

function submitAlone(backend: WebGPUBackend, encode: (pass: GPUComputePassEncoder) => void): void {
  backend.endComputePassEncoder();
  backend.submitQueue();
  const encoder = backend.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  encode(pass);
  pass.end();
  backend.queue.submit([encoder.finish()]);
}

function checkGrid(fn: string, device: GPUDevice, grid: [number, number, number]): void {
  const most = device.limits.maxComputeWorkgroupsPerDimension;
  if (grid.some((size) => size > most)) {
    fail(
      fn,
      `required: a grid of [${grid.join(', ')}] workgroups, supported: ${most} per dimension; use a smaller batch`,
    );
  }
}
