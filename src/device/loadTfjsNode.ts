/** Loads tfjs-node or tfjs-node-gpu, which brings tfjs's 'tensorflow' backend. */
import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { isMainThread } from 'node:worker_threads';
import { findBackend, findBackendFactory } from '@tensorflow/tfjs-core';
import {
  areGpusHidden,
  driverLibrary,
  lookAt,
  opens,
  setupCommand,
  tfjsNodeNames,
  whyGpuWasNotTaken,
} from './tfjsNode.js';
import type { TfjsNode, TfjsNodeName } from './tfjsNode.js';

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

/** Those that are installed, as modules of `require` would find them. */
export function findTfjsNodes(require: NodeJS.Require): TfjsNode[] {
  return Object.values(tfjsNodeNames).flatMap((name) => {
    const folder = packageFolder(require, name);
    return folder === undefined ? [] : [lookAt(name, folder)];
  });
}

function packageFolder(require: NodeJS.Require, name: TfjsNodeName): string | undefined {
  try {
    return dirname(require.resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

export interface Choice {
  readonly chosen: TfjsNode;
  /** Why one that is there for a GPU does not use it; undefined too where there is none */
  readonly noGpu?: string;
}

/** The first that computes on a GPU; the last that is whole, where none does. */
export function chooseTfjsNode(installed: readonly TfjsNode[]): Choice {
  const whole = installed.filter(({ missing }) => missing === undefined);
  const chosen = whole.find(({ noGpu }) => noGpu === undefined) ?? whole.at(-1);
  if (!chosen) throw new Error(`tfjs-mla/node: ${absence(installed.at(0))}`);
  if (chosen.noGpu === undefined) return { chosen };
  const forGpu = installed.find(({ name, isCuda12 }) => name === tfjsNodeNames.gpu || isCuda12);
  return { chosen, noGpu: forGpu && `${forGpu.name}: ${forGpu.noGpu ?? lack(forGpu)}` };
}

function absence(installed: TfjsNode | undefined): string {
  const { cpu } = tfjsNodeNames;
  return installed
    ? `${installed.name} has ${lack(installed)}`
    : `${cpu} is not installed: run 'npm install --ignore-scripts ${cpu}@4.22.0' and '${setupCommand(cpu)}'`;
}

function lack({ name, missing }: TfjsNode): string {
  return `no ${missing}: run '${setupCommand(name)}', or its own install script`;
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
