/** The calls of our ops that a run will make: to compile them ahead, and to tell how they will run. */
import { explain } from '../../src/index.js';
import type { AttentionShapes, Call, DecodeShapes, KernelName, Plan } from '../../src/index.js';
import type { DeepseekConfig } from '../../src/models.js';
import type { TrainingSettings } from '../shared/trainer.js';

const trainingKernels: KernelName[] = ['MLAAttention', 'MLADelta', 'MLAAttentionDq', 'MLAAttentionDkv'];

/** Training's call, forward and backward. */
export function trainingCall(config: DeepseekConfig, { batch: b, sequence: s }: TrainingSettings): Call {
  return { op: 'mlaAttention', shapes: attentionShapes(config, b, s), options: { causal: true } };
}

/** How every kernel will run: those of a training step, and that of a generated token. */
export function plansOf(config: DeepseekConfig, { batch, sequence }: TrainingSettings): Plan[] {
  const attention = attentionShapes(config, batch, sequence);
  const decodeOptions = { softmaxScale: 1, kvLengths: [1] };
  return [
    ...trainingKernels.map((kernel) => explain('mlaAttention', attention, { causal: true }, kernel)),
    explain('mlaDecode', decodeShapes(config), decodeOptions),
  ];
}

function attentionShapes(config: DeepseekConfig, b: number, s: number): AttentionShapes {
  const { numAttentionHeads: h, qkNopeHeadDim: dn, qkRopeHeadDim: dr, vHeadDim: dv } = config;
  return { q: [b, s, h, dn + dr], k: [b, s, h, dn], v: [b, s, h, dv], kRope: [b, s, dr] };
}

/** Of one token, over a cache of usual size. */
function decodeShapes({
  numAttentionHeads: h,
  kvLoraRank: r,
  qkRopeHeadDim: rr,
}: DeepseekConfig): DecodeShapes {
  const capacity = 256;
  return { qLatent: [1, 1, h, r], qRope: [1, 1, h, rr], cKv: [1, capacity, r], kRope: [1, capacity, rr] };
}
