/** The native library: one file, an addon for Node and an op library for TensorFlow. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

/** The least compute capability that there are kernels for. */
export const leastCapability = 80;

/** What the library's kernels for GPUs find. */
export interface CudaReport {
  /** as its maker calls the GPU */
  device: string;
  /** compute capability: 90 for 9.0 */
  capability: number;
  multiprocessors: number;
  /** the newest CUDA that the driver knows: 13000 for 13.0 */
  driver: number;
  /** the CUDA that the kernels were compiled by which the driver takes: 12 or 13 */
  images: number;
  /** why products of matrices are left to TensorFlow's own ops: no cuBLAS is to be found */
  noCublas?: string;
}

/** What the library says of itself once its ops are registered. */
export interface NativeReport {
  /** the version of the TensorFlow that it found in the process */
  tensorflow: string;
  /** the instruction set of the CPU kernels: 'sse2', 'avx2' or 'avx512' */
  instructions: string;
  threads: number;
  /** absent where there is no GPU, or the library was built without kernels for it */
  cuda?: CudaReport;
  /** why cuda is absent */
  noCuda?: string;
}

/** How a call runs on a GPU. */
export interface LaunchPlan {
  workspaceBytes: number;
  launches: {
    /** folder and stem of the .cu file, and the kernel in it */
    module: string;
    function: string;
    grid: number[];
    threads: number;
    sharedBytes: number;
  }[];
}

interface Addon {
  register(): NativeReport;
  planOnGpu(call: string): string;
}

const platform = `${process.platform}-${process.arch}`;

/** In the repository and in the package alike: beside the folder that holds src or dist. */
const candidates = ['../../native/', '../../../native/'].map((folder) =>
  fileURLToPath(new URL(`${folder}mla-${platform}.node`, import.meta.url)),
);

/** The library for this platform, if there is one; or the one that MLA_NATIVE names, none if that is empty. */
export function nativeLibrary(): string | undefined {
  const named = process.env.MLA_NATIVE;
  if (named !== undefined) return named === '' ? undefined : named;
  return candidates.find((candidate) => existsSync(candidate));
}

let addon: Addon | undefined;
let report: NativeReport | undefined;

/**
 * Registers the ops with the TensorFlow in this process; a second call only reports. Throws if there is no library for
 * this platform, or no TensorFlow in the process.
 */
export function registerOps(): NativeReport {
  if (report) return report;
  addon = load();
  try {
    report = addon.register();
  } catch (error) {
    throw new Error(`tfjs-mla/node: ${(error as Error).message}; load @tensorflow/tfjs-node first`, {
      cause: error,
    });
  }
  return report;
}

/** The plan of a call that is written as kernels/cuda/plan_text.h says; undefined where no kernel serves it. */
export function planCall(call: string): LaunchPlan | undefined {
  addon ??= load();
  return (JSON.parse(addon.planOnGpu(call)) as LaunchPlan | null) ?? undefined;
}

function load(): Addon {
  const file = nativeLibrary();
  if (!file) {
    throw new Error(
      `tfjs-mla/node: required: the native library for ${platform}, supported: linux-x64; in the repository 'npm run build:native' makes it`,
    );
  }
  return createRequire(import.meta.url)(file) as Addon;
}
