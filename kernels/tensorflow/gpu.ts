/** What the ops run with where TensorFlow computes on a GPU. */
import { fail } from '../../src/core/errors.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { PassedOver, Plan } from '../../src/core/register.js';
import { versionText } from '../../src/core/versionText.js';
import { leastCapability } from './native.js';
import type { CudaReport, NativeReport } from './native.js';

export const backendName = 'tensorflow';

/** Families of kernels by the least compute capability that runs them, the best first. */
const lanes = [
  { lane: 'sm_90a', least: 90, most: 99 },
  { lane: 'sm_80', least: 80, most: Infinity },
] as const;
const onTheCpu = 'set CUDA_VISIBLE_DEVICES=-1 to compute on the CPU';

/** The GPU, if there are kernels for it; else an error that says what would work. */
export function requireCuda({ cuda }: NativeReport): CudaReport {
  if (!cuda) {
    fail(
      'tfjs-mla/node',
      `required: kernels for the GPU that TensorFlow uses, got a native library without any: in the repository 'npm run setup:nvcc' and 'npm run build:native' make one; or ${onTheCpu}`,
    );
  }
  if (cuda.capability < leastCapability) {
    fail(
      'tfjs-mla/node',
      `required: a GPU of compute capability ${versionText(leastCapability)} or newer, got ${cuda.device} with ${versionText(cuda.capability)}: ${onTheCpu}, or CUDA_VISIBLE_DEVICES to another GPU`,
    );
  }
  return cuda;
}

/** What products are computed in: 'auto' is the fastest that keeps the bounds of float16. */
export function precisionOnGpu({ precision }: MlaProblem): Plan['computePrecision'] {
  return precision === 'auto' ? 'bfloat16' : precision;
}

export function planOnGpu(kernel: KernelName, problem: MlaProblem, { capability }: CudaReport): Plan {
  const runs = lanes.findIndex(({ least, most }) => capability >= least && capability <= most);
  const passedOver = lanes.flatMap(({ lane, least }, index): PassedOver[] => {
    if (index === runs) return [];
    const reason =
      index < runs
        ? `for compute capability ${versionText(least)}, got ${versionText(capability)}`
        : `${lanes[runs].lane} goes first`;
    return [{ candidate: lane, reason }];
  });
  return {
    kernel,
    backend: backendName,
    lane: lanes[runs].lane,
    computePrecision: precisionOnGpu(problem),
    tile: {},
    cacheKey: '',
    passedOver,
  };
}
