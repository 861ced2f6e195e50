/** An installed tfjs-node as its files tell of it, before TensorFlow is loaded: whether it is whole, and has a GPU here. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { runPath } from './runPath.js';

export const tfjsNodeNames = { gpu: '@tensorflow/tfjs-node-gpu', cpu: '@tensorflow/tfjs-node' } as const;
export type TfjsNodeName = (typeof tfjsNodeNames)[keyof typeof tfjsNodeNames];

export const libraryFolder = 'deps/lib';
const frameworkFile = `${libraryFolder}/libtensorflow_framework.so.2`;

export const driverLibrary = 'libcuda.so.1';
export const cudaRuntime = 'libcudart.so.12';
/** What else TensorFlow opens before it takes a GPU. */
const cudaLibraries = [
  'libcublas.so.12',
  'libcublasLt.so.12',
  'libcufft.so.11',
  'libcusolver.so.11',
  'libcusparse.so.12',
  'libcudnn.so.9',
];

export interface TfjsNode {
  readonly name: TfjsNodeName;
  readonly folder: string;
  /** 'libtensorflow' or 'binding' where there is none */
  readonly missing?: string;
  /** Its TensorFlow is built for CUDA 12: on a machine with a driver and no CUDA runtime it ends the process. */
  readonly isCuda12: boolean;
  /** Why it would not compute on a GPU in this process; undefined where it would, as far as files tell */
  readonly noGpu?: string;
}

export function setupCommand(name: TfjsNodeName): string {
  return `npx tfjs-mla setup-tensorflow${name === tfjsNodeNames.gpu ? ' --gpu' : ''}`;
}

export function lookAt(name: TfjsNodeName, folder: string): TfjsNode {
  if (!existsSync(join(folder, libraryFolder)))
    return { name, folder, missing: 'libtensorflow', isCuda12: false };
  if (!existsSync(join(folder, bindingFile(folder))))
    return { name, folder, missing: 'binding', isCuda12: false };
  const isCuda12 = cudaFolders(folder).some((each) => each.includes('cuda_runtime'));
  return { name, folder, isCuda12, noGpu: whyNoGpu(name, folder, isCuda12) };
}

/** Where node-pre-gyp puts the binding and looks for it: by the highest N-API that both sides know. */
export function bindingFile(folder: string): string {
  const manifest = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
    binary: { napi_versions: number[] };
  };
  const known = manifest.binary.napi_versions.filter((version) => version <= Number(process.versions.napi));
  return `lib/napi-v${Math.max(...known)}/tfjs_binding.node`;
}

function whyNoGpu(name: TfjsNodeName, folder: string, isCuda12: boolean): string | undefined {
  if (name === tfjsNodeNames.cpu && !isCuda12) return 'its TensorFlow is built for CPUs';
  if (areGpusHidden()) return `CUDA_VISIBLE_DEVICES is '${process.env.CUDA_VISIBLE_DEVICES}'`;
  if (!opens(driverLibrary)) return `${driverLibrary} does not open: install the NVIDIA driver of your card`;
  return isCuda12 && !hasCudaRuntime(folder)
    ? `${cudaRuntime} does not open: run '${setupCommand(name)}'`
    : undefined;
}

export function hasCudaRuntime(folder: string): boolean {
  return opens(cudaRuntime, cudaFolders(folder));
}

export function areGpusHidden(): boolean {
  return /^\s*(-|$)/.test(process.env.CUDA_VISIBLE_DEVICES ?? '0');
}

/** Why a TensorFlow that was expected to take a GPU has not. */
export function whyGpuWasNotTaken({ name, folder, isCuda12 }: TfjsNode): string {
  const folders = cudaFolders(folder);
  const closed = isCuda12 ? cudaLibraries.filter((library) => !opens(library, folders)) : [];
  return closed.length > 0
    ? `${closed.join(', ')} ${closed.length > 1 ? 'do' : 'does'} not open: run '${setupCommand(name)}'`
    : 'TensorFlow takes no GPU: TF_CPP_MIN_LOG_LEVEL=0 makes it say why';
}

/** Where TensorFlow looks for the libraries of CUDA before it asks the system. */
function cudaFolders(folder: string): string[] {
  const framework = join(folder, frameworkFile);
  return existsSync(framework) ? runPath(framework) : [];
}

/**
 * Whether a shared library opens, from one of `folders` or from where the system looks. To Node one that opens and is
 * no addon "did not self-register"; it closes it again.
 */
export function opens(library: string, folders: readonly string[] = []): boolean {
  const files = folders.map((folder) => join(folder, library)).filter((file) => existsSync(file));
  return [...files, basename(library)].some((file) => {
    try {
      process.dlopen({ exports: {} }, file);
      return true;
    } catch (error) {
      return /self-register/.test((error as Error).message);
    }
  });
}
