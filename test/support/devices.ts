/** Which backends this machine offers, in Node and in a page alike; those it lacks are skipped by name. */
import '@tensorflow/tfjs-backend-cpu';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { startThreads } from '../../src/wasm.js';
import { openGpu } from './gpu.js';
import { watchGpuErrors } from './gpuErrors.js';
import { isTensorflowProcess, loadTensorflow } from './tensorflow.js';

export interface DeviceOptions {
  /** Our own GPUDevice, with every feature and limit of the adapter, in place of the one that tfjs asks for. */
  readonly own?: boolean;
}

export interface Device {
  readonly name: string;
  readonly backend: 'cpu' | 'wasm' | 'webgpu' | 'tensorflow';
  readonly isSoftware: boolean;
  setUp(options?: DeviceOptions): Promise<void>;
}

export interface AbsentDevice {
  readonly name: string;
  readonly reason: string;
}

const noGpu = { adapter: undefined, reason: 'runs in a process without TensorFlow' };
const isIsolated = globalThis.crossOriginIsolated === true;
const gpu = isTensorflowProcess ? noGpu : await openGpu();
// The webgpu backend looks for navigator.gpu while it is imported, hence only now.
if (gpu.adapter) await import('@tensorflow/tfjs-backend-webgpu');
const stockWebgpu = tf.findBackendFactory('webgpu');
// where the server of the browser tests has them; Node finds its own
if (typeof document !== 'undefined') setWasmPaths('/wasm/');
const missingTensorflow = isTensorflowProcess ? await loadTensorflow() : undefined;
tf.env().set('IS_TEST', true); // tfjs then throws when a kernel leaks a buffer

/** Threads of the wasm backend in a page that is cross-origin isolated; elsewhere there is one. */
export const threadsInIsolation = 3;

export function availableDevices(): Device[] {
  // the isolated page is there for tfjs's threaded build; all else runs in the other
  if (isIsolated) return [{ name: 'wasm (threads)', backend: 'wasm', isSoftware: true, setUp: setUpThreads }];
  if (isTensorflowProcess) {
    const setUp = (): Promise<void> => setBackend('tensorflow');
    return missingTensorflow ? [] : [{ name: 'tensorflow', backend: 'tensorflow', isSoftware: true, setUp }];
  }
  const cpu: Device = { name: 'cpu', backend: 'cpu', isSoftware: true, setUp: () => setBackend('cpu') };
  const wasm: Device = { name: 'wasm', backend: 'wasm', isSoftware: true, setUp: () => setBackend('wasm') };
  if (!gpu.adapter) return [cpu, wasm];
  const { name, isSoftware } = gpu.adapter;
  return [cpu, wasm, { name: `webgpu (${name})`, backend: 'webgpu', isSoftware, setUp: setUpWebgpu }];
}

export function absentDevices(): AbsentDevice[] {
  if (missingTensorflow) return [{ name: 'tensorflow', reason: missingTensorflow }];
  return gpu.adapter || isIsolated || isTensorflowProcess ? [] : [{ name: 'webgpu', reason: gpu.reason }];
}

/** One `describe` per device, set up; for each absent one a skipped test that names it. */
export function onEachDevice(define: (device: Device) => void, options?: DeviceOptions): void {
  for (const device of availableDevices()) {
    describe(device.name, () => {
      before(() => device.setUp(options));
      define(device);
    });
  }
  for (const { name, reason } of absentDevices()) it.skip(`${name}: ${reason}`);
}

async function setUpThreads(): Promise<void> {
  await setBackend('wasm');
  await startThreads(threadsInIsolation);
}

async function setUpWebgpu({ own = false }: DeviceOptions = {}): Promise<void> {
  const isOwn = tf.findBackendFactory('webgpu') !== stockWebgpu;
  if (own && !isOwn) await installOwnDevice();
  if (!own && isOwn) restoreStockDevice();
  await setBackend('webgpu');
  tf.env().set('WEBGPU_CPU_FORWARD', false); // else tfjs computes small tensors on the CPU
  watchGpuErrors((tf.backend() as WebGPUBackend).device);
}

async function installOwnDevice(): Promise<void> {
  const { installDevice } = await import('../../src/device/installDevice.js');
  await installDevice();
}

function restoreStockDevice(): void {
  tf.removeBackend('webgpu');
  tf.registerBackend('webgpu', stockWebgpu, 3);
}

async function setBackend(name: string): Promise<void> {
  if (!(await tf.setBackend(name))) throw new Error(`setUp: tfjs could not initialise its backend ${name}`);
}
