import * as tf from '@tensorflow/tfjs-core';
import { registerOps } from '../../kernels/tensorflow/native.js';
import { openDawn } from '../../src/device/node.js';
import { isOnTensorflowGpu } from './memory.js';

export const backendNames = ['cpu', 'wasm', 'webgpu', 'tensorflow'] as const;
export type BackendName = (typeof backendNames)[number];

export interface ChosenBackend {
  device: { name: string; isSoftware: boolean };
  /** Makes the webgpu backend anew; tensors must not outlive it. Elsewhere nothing is done. */
  renew: () => Promise<void>;
}

export interface GpuOptions {
  /** tfjs's own GPU device instead of ours */
  stock: boolean;
  /** false: our device without subgroup matrices, which most GPUs have none of */
  matrices: boolean;
}

/** Without a name: webgpu where there is a GPU, else wasm. */
export async function chooseBackend(
  name: BackendName | undefined,
  { stock, matrices }: GpuOptions,
): Promise<ChosenBackend> {
  if (name === undefined || name === 'webgpu') {
    const { adapter, ...dawn } = await openDawn();
    if (adapter && (name || !adapter.isSoftware)) {
      await import('@tensorflow/tfjs-backend-webgpu');
      const { installDevice } = await import('../../src/webgpu.js');
      const gpu = matrices ? navigator.gpu : withoutMatrices(navigator.gpu);
      const renew = stock ? renewStockDevice : (): Promise<void> => installDevice({ gpu });
      await renew();
      return { device: adapter, renew };
    }
    if (name && 'reason' in dawn) throw new Error(`bench: backend webgpu is not there: ${dawn.reason}`);
  }
  const renew = async (): Promise<void> => undefined;
  if (name === 'tensorflow') {
    await import('../../src/node.js');
    const name = isOnTensorflowGpu() ? (registerOps().cuda?.device ?? 'a GPU') : 'the CPU';
    return { device: { name: `${name}, libtensorflow`, isSoftware: !isOnTensorflowGpu() }, renew };
  }
  await import('../../src/wasm.js');
  await tf.setBackend(name ?? 'wasm');
  return { device: { name: 'one CPU core', isSoftware: true }, renew };
}

function withoutMatrices(gpu: GPU): GPU {
  const requestAdapter: GPU['requestAdapter'] = async (options) => {
    const adapter = await gpu.requestAdapter(options);
    if (!adapter) return null;
    const features = new Set(adapter.features);
    features.delete('chromium-experimental-subgroup-matrix');
    return new Proxy(adapter, {
      get(target, key): unknown {
        if (key === 'features') return features;
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  };
  return { requestAdapter } as GPU;
}

async function renewStockDevice(): Promise<void> {
  const factory = tf.findBackendFactory('webgpu');
  tf.removeBackend('webgpu');
  tf.registerBackend('webgpu', factory);
  await tf.setBackend('webgpu');
}
