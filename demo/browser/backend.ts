/** Which backend the page computes on: WebGPU on a device of ours, else on tfjs's own, else the CPU kernels. */
import '@tensorflow/tfjs-backend-cpu';
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { backend, enableProdMode, env, memory, setBackend } from '@tensorflow/tfjs-core';
import type { MemoryInfo } from '@tensorflow/tfjs-core';
import '../../src/index.js';
import { installDevice } from '../../src/webgpu.js';
import type { BackendName, BackendReport, MemoryUse } from './messages.js';

/** The installed WebGPU types are older than adapter.info. */
type AdapterInfo = Partial<Record<'vendor' | 'architecture' | 'device' | 'description', string>>;

const tiledProducts = 3;
const softwareAdapters = /swiftshader|llvmpipe|lavapipe|basic render/i;

/** Makes the best backend current, or the one that is asked for. Throws if that one is absent. */
export async function chooseBackend(wanted?: BackendName): Promise<BackendReport> {
  enableProdMode();
  if (wanted === 'cpu') return useCpu();
  const missing = await useWebgpu();
  if (typeof missing !== 'string') {
    // tfjs's program for small products, a workgroup for every element, takes half a second a token in software
    if (missing.isSoftware) env().set('WEBGPU_MATMUL_PROGRAM_TYPE', tiledProducts);
    return missing;
  }
  if (wanted === 'webgpu') throw new Error(`WebGPU was asked for: ${missing}`);
  return useCpu(missing);
}

/** Calls back when the GPU device is lost, with the browser's words. Does nothing on cpu. */
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

/** The report, or why there is none. */
async function useWebgpu(): Promise<BackendReport | string> {
  const gpu = (navigator as Partial<Navigator>).gpu;
  if (!gpu) return 'this browser has no WebGPU (navigator.gpu is missing).';
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) return 'this browser knows WebGPU, but finds no graphics adapter that it may use.';
  const device = adapterName(adapter);
  const report = { name: 'webgpu', device, isSoftware: softwareAdapters.test(device) } as const;
  try {
    await installDevice();
    return { ...report, isOwnDevice: true };
  } catch (error) {
    await import('@tensorflow/tfjs-backend-webgpu'); // registers tfjs's own device
    if (await setBackend('webgpu')) return { ...report, isOwnDevice: false };
    return `the graphics adapter ${device} could not be used: ${(error as Error).message}`;
  }
}

async function useCpu(missing?: string): Promise<BackendReport> {
  if (!(await setBackend('cpu'))) throw new Error('the cpu backend could not be initialised');
  return { name: 'cpu', device: 'JavaScript, one core', isSoftware: true, isOwnDevice: false, missing };
}

function adapterName(adapter: GPUAdapter): string {
  const { vendor, architecture, device, description } =
    (adapter as GPUAdapter & { info?: AdapterInfo }).info ?? {};
  const parts = [vendor, architecture].filter(Boolean).join(' ');
  return description || [parts, device].filter(Boolean).join(' ') || 'unnamed GPU';
}
