/** How much memory a process of its own has taken at most. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import * as tf from '@tensorflow/tfjs-core';
import type { TensorflowBackend } from '../../kernels/tensorflow/index.js';

const ownMemory = '/proc/self/status';

export function isOnTensorflowGpu(): boolean {
  return tf.getBackend() === 'tensorflow' && (tf.backend() as TensorflowBackend).isUsingGpuDevice;
}

/**
 * Begins to measure; the answer tells the peak so far. webgpu: of its buffers, which it keeps. TensorFlow on a GPU: what
 * the whole device has given away since, to a pool that never shrinks. Elsewhere: of the process, from its start.
 */
export function measurePeak(): () => number | undefined {
  if (tf.getBackend() === 'webgpu') {
    return () => (tf.memory() as tf.MemoryInfo & { numBytesAllocatedInGPU?: number }).numBytesAllocatedInGPU;
  }
  if (!isOnTensorflowGpu()) return peakOfProcess;
  // what the libraries take for themselves comes with the first product
  tf.tidy(() => tf.matMul(tf.ones([2, 2]), tf.ones([2, 2])).dataSync());
  const before = usedOnGpu();
  return () => {
    const after = usedOnGpu();
    return before === undefined || after === undefined ? undefined : after - before;
  };
}

function peakOfProcess(): number | undefined {
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
