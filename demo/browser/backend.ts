/**
 * Which backend the page computes on: WebGPU on a device of ours, else on tfjs's own, else tfjs's WebAssembly with our
 * SIMD kernels, else the CPU kernels in JavaScript.
 */
import '@tensorflow/tfjs-backend-cpu';
import { setWasmPaths } from '@tensorflow/tfjs-backend-wasm';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { backend, enableProdMode, env, memory, setBackend } from '@tensorflow/tfjs-core';
import type { MemoryInfo } from '@tensorflow/tfjs-core';
import '../../src/index.js';
import { installDevice } from '../../src/webgpu.js';
import { backendNames } from './messages.js';
import type { BackendName, BackendReport, MemoryUse } from './messages.js';

/** The installed WebGPU types are older than adapter.info. */
type AdapterInfo = Partial<Record<'vendor' | 'architecture' | 'device' | 'description', string>>;

/** A backend that was made current; or why it was not, in a sentence for the page. */
type Outcome = Omit<BackendReport, 'passedOver'> | string;

const tiledProducts = 3;
const softwareAdapters = /swiftshader|llvmpipe|lavapipe|basic render/i;

/** Makes the best backend current, or the one that is asked for. Throws if that one is absent. */
export async function chooseBackend(wanted?: BackendName): Promise<BackendReport> {
  enableProdMode();
  const passedOver: string[] = [];
  for (const name of wanted ? [wanted] : backendNames) {
    const outcome = await use(name, name === wanted);
    if (typeof outcome === 'string') {
      passedOver.push(outcome);
      continue;
    }
    // tfjs's program for small products, a workgroup for every element, takes half a second a token in software
    if (outcome.isSoftware) env().set('WEBGPU_MATMUL_PROGRAM_TYPE', tiledProducts);
    return { ...outcome, passedOver };
  }
  throw new Error(passedOver.join(' '));
}

/** Calls back when the GPU device is lost, with the browser's words. Does nothing without a GPU. */
export function watchDevice({ name }: BackendReport, onLost: (text: string) => void): void {
  if (name !== 'webgpu') return;
  void (backend() as WebGPUBackend).device.lost.then(({ reason, message }) =>
    onLost(message || reason || 'no reason given'),
  );
}

export function memoryUse(): MemoryUse {
  const { numTensors, numBytes, numBytesInGPU } = memory() as MemoryInfo & { numBytesInGPU?: number };
  return { tensors: numTensors, tensorBytes: numBytes, gpuBytes: numBytesInGPU };
}

function use(name: BackendName, isWanted: boolean): Promise<Outcome> {
  switch (name) {
    case 'webgpu':
      return useWebgpu(isWanted);
    case 'wasm':
      return useWasm();
    case 'cpu':
      return useCpu();
  }
}

async function useWebgpu(acceptSoftware: boolean): Promise<Outcome> {
  const gpu = (navigator as Partial<Navigator>).gpu;
  if (!gpu) return 'This browser has no WebGPU (navigator.gpu is missing).';
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) return 'This browser knows WebGPU, but finds no graphics adapter that it may use.';
  const device = adapterName(adapter);
  const isSoftware = softwareAdapters.test(device);
  if (isSoftware && !acceptSoftware) {
    return `The only WebGPU adapter, ${device}, computes in software, slower than WebAssembly (?backend=webgpu takes it all the same).`;
  }
  const report = { name: 'webgpu', device, isSoftware, isOwnDevice: true } as const;
  try {
    await installDevice();
  } catch (error) {
    await import('@tensorflow/tfjs-backend-webgpu'); // registers tfjs's own device
    if (await setBackend('webgpu')) return { ...report, isOwnDevice: false };
    return `The graphics adapter ${device} could not be used: ${(error as Error).message}`;
  }
  return report;
}

async function useWasm(): Promise<Outcome> {
  // first: where a browser is locked down there is no WebAssembly at all, and importing our kernels throws
  if (!(await env().getAsync('WASM_HAS_SIMD_SUPPORT'))) return 'This browser has no WebAssembly SIMD.';
  const { startThreads } = await import('../../src/wasm.js');
  setWasmPaths('/wasm/');
  if (!(await setBackend('wasm'))) {
    return "TensorFlow.js's WebAssembly backend did not start: its files may be missing under /wasm/, and the browser's console tells more.";
  }
  const threads = await startThreads();
  const device = threads === 1 ? 'one thread' : `${threads} threads`;
  return { name: 'wasm', device, isSoftware: false, isOwnDevice: false };
}

async function useCpu(): Promise<Outcome> {
  if (!(await setBackend('cpu'))) return 'The cpu backend could not be initialised.';
  return { name: 'cpu', device: 'JavaScript, one core', isSoftware: false, isOwnDevice: false };
}

function adapterName(adapter: GPUAdapter): string {
  const { vendor, architecture, device, description } =
    (adapter as GPUAdapter & { info?: AdapterInfo }).info ?? {};
  const parts = [vendor, architecture].filter(Boolean).join(' ');
  return description || [parts, device].filter(Boolean).join(' ') || 'unnamed GPU';
}
