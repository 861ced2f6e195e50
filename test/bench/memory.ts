/** How much memory a backend has taken at most. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from '../../kernels/tensorflow/index.js';

const ownMemory = '/proc/self/status';

export function isOnTensorflowGpu(): boolean {
  return tf.getBackend() === 'tensorflow' && (tf.backend() as TensorflowBackend).isUsingGpuDevice;
}

/** Forgets the peak so far, where the peak is that of the process's memory. */
export function forgetPeak(): void {
  if (existsSync(ownMemory)) writeFileSync('/proc/self/clear_refs', '5');
}

/**
 * webgpu: what its buffers take, which it keeps. TensorFlow on a GPU: what the GPU has given away, to a pool that never
 * shrinks, so that only the first of several figures, or a larger one, is the work's own. Elsewhere: of the process.
 */
export function peakBytes(): number | undefined {
  if (tf.getBackend() === 'webgpu') {
    return (tf.memory() as tf.MemoryInfo & { numBytesAllocatedInGPU?: number }).numBytesAllocatedInGPU;
  }
  if (isOnTensorflowGpu()) return usedOnGpu();
  if (!existsSync(ownMemory)) return undefined;
  const kilobytes = /^VmHWM:\s*(\d+) kB$/m.exec(readFileSync(ownMemory, 'utf8'))?.[1];
  return kilobytes === undefined ? undefined : 1024 * Number(kilobytes);
}

function usedOnGpu(): number | undefined {
  const [gpu] = (process.env.CUDA_VISIBLE_DEVICES ?? '0').split(',');
  const flags = [`--id=${gpu}`, '--query-gpu=memory.used', '--format=csv,noheader,nounits'];
  try {
    return 2 ** 20 * Number(execFileSync('nvidia-smi', flags, { encoding: 'utf8' }));
  } catch {
    return undefined;
  }
}
