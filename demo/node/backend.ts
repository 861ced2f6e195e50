import { enableProdMode, findBackend, setBackend } from '@tensorflow/tfjs-core';
import { openDawn } from '../../src/device/node.js';
import type { OpenedDawn } from '../../src/device/node.js';
import '../../src/index.js';

export interface ChosenBackend {
  name: string;
  /** The device it computes on. */
  device: string;
  /** The better backends that were passed over, and why. */
  passedOver: string[];
}

export const backendNames = ['webgpu', 'tensorflow', 'wasm', 'cpu'] as const;

export type BackendName = (typeof backendNames)[number];

/**
 * Makes the best backend current that this machine has: a real GPU through WebGPU, else TensorFlow if it is set up, else
 * wasm. cpu and WebGPU in software are slower and have to be asked for. Throws if the one that is asked for is absent.
 */
export async function chooseBackend(wanted?: BackendName): Promise<ChosenBackend> {
  enableProdMode(); // no advertisement for tfjs-node
  const passedOver: string[] = [];
  if (wanted === undefined || wanted === 'webgpu') {
    const dawn = await openDawn();
    const missing = missingWebgpu(dawn, wanted === 'webgpu');
    if (!missing && dawn.adapter) return useWebgpu(dawn.adapter.name, passedOver);
    passedOver.push(`webgpu: ${missing}`);
  }
  if (wanted === undefined || wanted === 'tensorflow') {
    const missing = await missingTensorflow();
    if (!missing) return use('tensorflow', `libtensorflow, ${tensorflowDevice()}`, passedOver);
    passedOver.push(`tensorflow: ${missing}`);
  }
  if (wanted === undefined || wanted === 'wasm') {
    await import('@tensorflow/tfjs-backend-wasm');
    await import('../../src/wasm.js');
    return use('wasm', 'WebAssembly SIMD, one core', passedOver);
  }
  if (wanted === 'cpu') {
    await import('@tensorflow/tfjs-backend-cpu');
    return use('cpu', 'JavaScript, one core', passedOver);
  }
  throw new Error(`backend ${wanted} was asked for and is not here: ${passedOver.join('; ')}`);
}

/** Why TensorFlow is not used; undefined once it is loaded. */
async function missingTensorflow(): Promise<string | undefined> {
  try {
    await import('../../src/node.js');
    return undefined;
  } catch (error) {
    return (error as Error).message.replace('tfjs-mla/node: ', '');
  }
}

function tensorflowDevice(): string {
  const { isUsingGpuDevice } = findBackend('tensorflow') as unknown as { isUsingGpuDevice: boolean };
  return isUsingGpuDevice ? 'on the GPU' : 'all processors';
}

function missingWebgpu(dawn: OpenedDawn, acceptSoftware: boolean): string | undefined {
  if (!dawn.adapter) return dawn.reason;
  const { name, isSoftware } = dawn.adapter;
  return isSoftware && !acceptSoftware ? `${name} computes in software, slower than wasm` : undefined;
}

async function useWebgpu(device: string, passedOver: string[]): Promise<ChosenBackend> {
  const { installDevice } = await import('../../src/webgpu.js');
  await installDevice();
  return use('webgpu', device, passedOver);
}

async function use(name: BackendName, device: string, passedOver: string[]): Promise<ChosenBackend> {
  if (!(await setBackend(name))) throw new Error(`backend ${name} could not be initialised`);
  return { name, device, passedOver };
}
