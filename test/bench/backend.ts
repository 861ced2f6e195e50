import * as tf from '@tensorflow/tfjs-core';
import { registerOps } from '../../kernels/tensorflow/native.js';
import { openDawn } from '../../src/device/node.js';
import { isOnTensorflowGpu } from './memory.js';

export const backendNames = ['cpu', 'wasm', 'webgpu', 'tensorflow'] as const;
export type BackendName = (typeof backendNames)[number];

export interface Device {
  name: string;
  isSoftware: boolean;
}

/** What the benchmarks compute on. */
export interface BackendOptions {
  /** Without a name: webgpu where there is a GPU, else wasm. */
  backend?: BackendName;
  /** tfjs's own GPU device instead of ours */
  stock: boolean;
  /** false: our device without subgroup matrices, which most GPUs have none of */
  matrices: boolean;
}

export async function chooseBackend({ backend: name, stock, matrices }: BackendOptions): Promise<Device> {
  if (name === undefined || name === 'webgpu') {
    const { adapter, ...dawn } = await openDawn();
    if (adapter && (name || !adapter.isSoftware)) {
      await import('@tensorflow/tfjs-backend-webgpu');
      const { installDevice } = await import('../../src/webgpu.js');
      if (stock) await tf.setBackend('webgpu');
      else await installDevice({ gpu: matrices ? navigator.gpu : withoutMatrices(navigator.gpu) });
      return adapter;
    }
    if (name && 'reason' in dawn) throw new Error(`bench: backend webgpu is not there: ${dawn.reason}`);
  }
  if (name === 'tensorflow') {
    // else it takes all of a GPU's memory, and leaves none to the processes beside it
    process.env.TF_FORCE_GPU_ALLOW_GROWTH ??= 'true';
    await import('../../src/node.js');
    const name = isOnTensorflowGpu() ? (registerOps().cuda?.device ?? 'a GPU') : 'the CPU';
    return { name: `${name}, libtensorflow`, isSoftware: !isOnTensorflowGpu() };
  }
  await import('../../src/wasm.js');
  await tf.setBackend(name ?? 'wasm');
  return { name: 'one CPU core', isSoftware: true };
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
