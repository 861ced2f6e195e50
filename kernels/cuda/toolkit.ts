/** The compilers of the .cu files: nvcc of CUDA 13, and NVRTC of CUDA 12 for drivers that are older than it. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Where npm run setup:nvcc puts both. */
export const toolkitFolder = fileURLToPath(new URL('../../node_modules/.cache/cuda', import.meta.url));

/** PyPI's; each holds a part of the folder `nvidia`. */
export const wheels = [
  'nvidia-cuda-nvcc==13.0.88',
  'nvidia-cuda-crt==13.0.88',
  'nvidia-nvvm==13.0.88',
  'nvidia-cuda-runtime==13.0.96',
  'nvidia-cuda-cccl==13.0.85',
  'nvidia-cuda-nvrtc-cu12==12.5.82',
  'nvidia-cuda-runtime-cu12==12.5.82',
];

export interface Nvcc {
  readonly file: string;
  /** As in 13.0.88. */
  readonly version: string;
}

export interface Nvrtc {
  readonly library: string;
  readonly includes: readonly string[];
}

/** The first nvcc of CUDA 13 on PATH, in CUDA_HOME, or from npm run setup:nvcc. */
export function findNvcc(): Nvcc | undefined {
  const onPath = (process.env.PATH ?? '').split(delimiter);
  const installed = process.env.CUDA_HOME ? [join(process.env.CUDA_HOME, 'bin')] : [];
  for (const folder of [...onPath, ...installed, join(toolkitFolder, 'nvidia/cu13/bin')]) {
    const file = join(folder, 'nvcc');
    if (!existsSync(file)) continue;
    const version = /V(13\.[\d.]+)/.exec(
      spawnSync(file, ['--version'], { encoding: 'utf8', timeout: 30_000 }).stdout,
    )?.[1];
    if (version) return { file, version };
  }
  return undefined;
}

/** From npm run setup:nvcc alone; python3 calls it. */
export function findNvrtc(): Nvrtc | undefined {
  const inFolder = (path: string): string => join(toolkitFolder, 'nvidia', path);
  const library = inFolder('cuda_nvrtc/lib/libnvrtc.so.12');
  if (!existsSync(library)) return undefined;
  // nv/target, which the headers of half and bfloat16 ask for, is the same text in both
  return { library, includes: [inFolder('cuda_runtime/include'), inFolder('cu13/include/cccl')] };
}
