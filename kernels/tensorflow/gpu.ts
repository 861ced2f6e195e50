/** What the ops run with where TensorFlow computes on a GPU: asked of the native library, which plans each call itself. */
import { fail } from '../../src/core/errors.js';
import * as names from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import type { PassedOver, Plan } from '../../src/core/register.js';
import { versionText } from '../../src/core/versionText.js';
import { leastCapability, planCall } from './native.js';
import type { CudaReport, LaunchPlan, NativeReport } from './native.js';

/** Families of kernels, by folder of kernels/cuda, in the order in which they are asked. */
const lanes = [
  { folder: 'sm90', lane: 'sm_90a', serves: (capability: number) => Math.floor(capability / 10) === 9 },
  { folder: 'sm80', lane: 'sm_80', serves: (capability: number) => capability >= 80 },
  { folder: 'general', lane: 'general', serves: () => true },
];

/** By MlaKernel of kernels/cuda/mla_params.h; a copy is no kernel. */
const kernelNumbers: Partial<Record<KernelName, number>> = {
  [names.MLAAttention]: 0,
  [names.MLADecode]: 0,
  [names.MLADelta]: 1,
  [names.MLAAttentionDq]: 2,
  [names.MLADecodeDq]: 2,
  [names.MLAAttentionDkv]: 3,
  [names.MLADecodeDkv]: 3,
  [names.MLAAttentionBackward]: 4,
};
/** MlaType of float tensors, MlaPrecision. */
const float = 0;
const precisionNumbers = { float32: 0, tf32: 1, float16: 2, bfloat16: 3 } as const;
/** As describe.c has it. */
const unbounded = 2 ** 29;

const onTheCpu = 'set CUDA_VISIBLE_DEVICES=-1 to compute on the CPU';

/** The GPU, if there are kernels for it; else an error that says what would work. */
export function requireCuda({ cuda, noCuda }: NativeReport): CudaReport {
  if (!cuda) {
    fail(
      'tfjs-mla/node',
      `required: our kernels on the GPU that TensorFlow uses, missing: ${noCuda}; npx tfjs-mla doctor tells more, or ${onTheCpu}`,
    );
  }
  if (cuda.capability < leastCapability) {
    fail(
      'tfjs-mla/node',
      `required: a GPU of compute capability ${versionText(leastCapability)} or newer, got ${cuda.device} with ${versionText(cuda.capability)}; ${onTheCpu}, or CUDA_VISIBLE_DEVICES to another GPU`,
    );
  }
  return cuda;
}

/** What products are asked for in: 'auto' is the fastest that keeps the bounds of float16. */
export function precisionOnGpu({ precision }: MlaProblem): Plan['computePrecision'] {
  return precision === 'auto' ? 'bfloat16' : precision;
}

export function planOnGpu(
  kernel: KernelName,
  problem: MlaProblem,
  cuda: CudaReport,
): Omit<Plan, 'kernel' | 'backend'> {
  const call = callText(kernel, problem, cuda);
  if (call === undefined) {
    return { lane: 'copy', computePrecision: 'float32', tile: {}, cacheKey: '', passedOver: [] };
  }
  const { launches, workspaceBytes } = planCall(call) ?? noKernel(kernel, cuda);
  // delta has a family of its own, and a family may convert, merge and sum with kernels of those after it
  const own = launches.filter(({ module }) => kernel === names.MLADelta || !module.endsWith('/mla_delta'));
  const taken = lanes.findIndex(({ folder }) => own.some(({ module }) => module.startsWith(`${folder}/`)));
  const { lane } = lanes[taken];
  const asked = precisionOnGpu(problem);
  const isWide = lane === 'general' || kernel === names.MLADelta;
  const wide = { candidate: asked, reason: `${kernel} in lane ${lane} computes in float32` };
  return {
    lane,
    computePrecision: isWide ? 'float32' : asked,
    tile: {
      LAUNCHES: launches.length,
      THREADS: Math.max(...launches.map(({ threads }) => threads)),
      SHARED_BYTES: Math.max(...launches.map(({ sharedBytes }) => sharedBytes)),
      WORKSPACE_BYTES: workspaceBytes,
    },
    cacheKey: launches.map(({ module, function: name }) => `${module} ${name}`).join(', '),
    passedOver: [
      ...lanes.slice(0, taken).map((each) => whyNot(each, cuda)),
      ...(isWide && asked !== 'float32' ? [wide] : []),
    ],
  };
}

function whyNot({ lane, serves }: (typeof lanes)[number], { capability }: CudaReport): PassedOver {
  const reason = serves(capability)
    ? 'has no kernel for such a call'
    : `not for compute capability ${versionText(capability)}`;
  return { candidate: lane, reason };
}

function noKernel(kernel: KernelName, { device }: CudaReport): LaunchPlan {
  return fail('explain', `no kernel of ${kernel} serves this call on ${device}`);
}

/** The numbers of a call as kernels/cuda/plan_text.h wants them. */
function callText(kernel: KernelName, problem: MlaProblem, cuda: CudaReport): string | undefined {
  const number = kernelNumbers[kernel];
  if (number === undefined) return undefined;
  const { b, hq, hkv, sq, skv, dn, dr, dv, causal, window, hasQLengths, hasKvLengths } = problem;
  const hasDelta = kernel === names.MLADelta || kernel === names.MLAAttentionBackward;
  const [left, right] = window.map((keys) => (keys < 0 ? unbounded : Math.min(keys, unbounded)));
  return [
    ...[cuda.capability, cuda.multiprocessors],
    ...[number, problem.op === 'mlaDecode', float, precisionNumbers[precisionOnGpu(problem)]],
    ...[b, hq, hkv, sq, skv, dn, dr, dv],
    ...[left, causal === 'none' ? right : 0, causal === 'top-left'],
    ...[hasQLengths, hasKvLengths, hasDelta && problem.returnLse],
  ]
    .map(Number)
    .join(' ');
}
