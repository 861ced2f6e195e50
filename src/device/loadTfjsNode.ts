/** Loads tfjs-node or tfjs-node-gpu, which brings tfjs's 'tensorflow' backend. */
import { createRequire } from 'node:module';
import { isMainThread } from 'node:worker_threads';
import { findBackend, findBackendFactory } from '@tensorflow/tfjs-core';
import { chooseTfjsNode, findTfjsNodes } from './chooseTfjsNode.js';
import { areGpusHidden, driverLibrary, opens, whyGpuWasNotTaken } from './tfjsNode.js';
import type { TfjsNode } from './tfjsNode.js';

const require = createRequire(import.meta.url);

/**
 * Loads tfjs-node-gpu if it is installed and finds a GPU, else tfjs-node, unless the 'tensorflow' backend is there already.
 * Returns why a package that is there for a GPU does not use it, and warns of it where nobody has hidden the GPU. Throws, in
 * a sentence that says what mends it, if there is no package, or none with its libtensorflow and its binding.
 */
export function loadTfjsNode(): string | undefined {
  if (findBackendFactory('tensorflow')) return undefined;
  const { chosen, noGpu: passedOver } = chooseTfjsNode(findTfjsNodes(require));
  const isHidden = areGpusHidden();
  prepareProcess(chosen);
  require(chosen.name);
  const isForGpu = chosen.noGpu === undefined;
  const noGpu = isForGpu && !isOnGpu() ? `${chosen.name}: ${whyGpuWasNotTaken(chosen)}` : passedOver;
  if (noGpu !== undefined && !isHidden) {
    console.warn(`tfjs-mla/node: TensorFlow computes on the CPU: ${noGpu}`);
  }
  return noGpu;
}

function isOnGpu(): boolean {
  return (findBackend('tensorflow') as unknown as { isUsingGpuDevice: boolean }).isUsingGpuDevice;
}

/** What TensorFlow reads as it starts. */
export function prepareProcess({ isCuda12, noGpu }: TfjsNode): void {
  mendNode();
  const { env } = process;
  // TensorFlow's notes on its own build
  env.TF_CPP_MIN_LOG_LEVEL ??= '1';
  if (noGpu !== undefined) {
    if (isCuda12) hideGpus(noGpu);
    return;
  }
  // else it takes all memory of the GPU at its first op
  env.TF_FORCE_GPU_ALLOW_GROWTH ??= 'true';
  // tfjs-node puts tensors on the last GPU, TensorFlow computes on the first
  env.CUDA_VISIBLE_DEVICES = (env.CUDA_VISIBLE_DEVICES ?? '0').split(',')[0];
}

/** A Worker has a copy of the environment, which TensorFlow does not see. */
function hideGpus(reason: string): void {
  if (areGpusHidden()) return;
  if (!isMainThread && opens(driverLibrary)) {
    throw new Error(
      `tfjs-mla/node: ${reason}; in a Worker TensorFlow would end the process: load tfjs-mla/node on the main thread first, or set CUDA_VISIBLE_DEVICES=-1`,
    );
  }
  process.env.CUDA_VISIBLE_DEVICES = '-1';
}

/** tfjs-node 4.22 calls two functions that Node 23 took away. */
function mendNode(): void {
  const util = require('node:util') as Record<string, unknown>;
  util.isNullOrUndefined ??= (value: unknown): boolean => value === null || value === undefined;
  util.isArray ??= (value: unknown): boolean => Array.isArray(value);
}
