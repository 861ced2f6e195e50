/** `tfjs-mla setup-tensorflow`: a libtensorflow of today behind an installed tfjs-node. */
import { lookAt, tfjsNodeNames, whyGpuWasNotTaken } from '../device/tfjsNode.js';
import { buildBinding, computationText, compute } from './binding.js';
import { putCuda, putTensorflow } from './libraries.js';
import { say, stop } from './progress.js';
import { findPackage, installCommand, removeAllParts, removeDownloads } from './tfjsNode.js';

export interface SetupOptions {
  readonly gpu: boolean;
  readonly version?: string;
  readonly wheels: readonly string[];
  readonly undo: boolean;
}

export async function setupTensorflow(options: SetupOptions): Promise<void> {
  const name = options.gpu ? tfjsNodeNames.gpu : tfjsNodeNames.cpu;
  const found = findPackage(name);
  if (!found) {
    stop(`expected ${name} to be installed in this folder, got none; ${installCommand(name)}`);
  }
  const { folder } = found;
  if (options.undo) return undo(folder);
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    const got = `${process.platform} on ${process.arch}`;
    stop(`expected linux on x64, got ${got}; use the backend wasm or webgpu`);
  }
  const source = await putTensorflow(folder, options);
  if (options.gpu) await putCuda(folder, options.wheels);
  removeDownloads(folder);

  await buildBinding(folder, source);
  say('multiplying two matrices, and running an op of ours');
  const computed = compute(folder);
  if ('reason' in computed) {
    stop(`expected ${name} to compute, got ${computed.reason}; see npx tfjs-mla doctor`);
  }
  process.stdout.write(`${name} ${computationText(computed)}\n`);
  if (options.gpu && !computed.gpu) {
    const installed = lookAt(name, folder);
    say(`not on a GPU: ${installed.noGpu ?? whyGpuWasNotTaken(installed)}`);
  }
}

function undo(folder: string): void {
  const removed = removeAllParts(folder);
  process.stdout.write(removed.length > 0 ? `removed ${removed.join(', ')}\n` : 'nothing to remove\n');
}
