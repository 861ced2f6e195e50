import type * as tf from '@tensorflow/tfjs-core';
import { mlaDecode } from '../src/index.js';
import { disposed, ones, ones3, testRefusals, untyped } from './support/refusals.js';

/** A call that is right but for what is given. */
function decode(
  shapes: { qLatent?: number[]; qRope?: number[]; cKv?: number[]; kRope?: number[] },
  options: object = { softmaxScale: 0.1 },
): tf.Tensor {
  const { qLatent = [2, 1, 3, 16], qRope = [2, 1, 3, 4], cKv = [2, 9, 16], kRope = [2, 9, 4] } = shapes;
  return mlaDecode(
    ones(qLatent),
    ones(qRope),
    ones3(cKv),
    ones3(kRope),
    untyped<{ softmaxScale: number; returnLse: false }>(options),
  );
}

/** The same with a packed cache. */
function decodePacked(shapes: {
  qLatent?: number[];
  qRope?: number[];
  cKv?: number[];
  kRope?: number[];
}): tf.Tensor {
  const { qLatent = [2, 1, 3, 16], qRope = [2, 1, 3, 4], cKv = [2, 9, 8], kRope = [2, 9, 2] } = shapes;
  return mlaDecode(ones(qLatent), ones(qRope), ones3(cKv, 'int32'), ones3(kRope, 'int32'), {
    softmaxScale: 0.1,
  });
}

testRefusals('errors of mlaDecode', {
  'mlaDecode: layout must be one of bshd, bhsd, sbhd, got thd': () =>
    decode({}, { softmaxScale: 0.1, layout: 'thd' }),
  "mlaDecode: qLatent must be [b, sq, hq, r] for layout 'bshd', got rank 3 [2, 3, 16]": () =>
    decode({ qLatent: [2, 3, 16] }),
  "mlaDecode: qRope must be [sq, b, hq, rr] for layout 'sbhd', got rank 3 [2, 3, 4]": () =>
    decode({ qRope: [2, 3, 4] }, { softmaxScale: 0.1, layout: 'sbhd' }),
  'mlaDecode: cKv must be [b, s, r], got rank 4 [2, 9, 1, 16]': () => decode({ cKv: [2, 9, 1, 16] }),
  'mlaDecode: kRope must be [b, s, rr], got rank 2 [9, 4]': () => decode({ kRope: [9, 4] }),
  'mlaDecode: cKv is disposed': () =>
    mlaDecode(ones([2, 1, 3, 16]), ones([2, 1, 3, 4]), disposed(ones3([2, 9, 16])), ones3([2, 9, 4]), {
      softmaxScale: 1,
    }),
  'mlaDecode: cKv must be float32, got bool': () =>
    mlaDecode(ones([2, 1, 3, 16]), ones([2, 1, 3, 4]), ones3([2, 9, 16], 'bool'), ones3([2, 9, 4]), {
      softmaxScale: 1,
    }),
  'mlaDecode: qRope must be float32, got int32': () =>
    mlaDecode(ones([2, 1, 3, 16]), ones([2, 1, 3, 4], 'int32'), ones3([2, 9, 16]), ones3([2, 9, 4]), {
      softmaxScale: 1,
    }),
  'mlaDecode: cKv and kRope must both be float32 or both int32 (packed float16), got int32 and float32': () =>
    mlaDecode(ones([2, 1, 3, 16]), ones([2, 1, 3, 4]), ones3([2, 9, 8], 'int32'), ones3([2, 9, 4]), {
      softmaxScale: 1,
    }),
  'mlaDecode: cKv and kRope must both be float32 or both int32 (packed float16), got float32 and int32': () =>
    mlaDecode(ones([2, 1, 3, 16]), ones([2, 1, 3, 4]), ones3([2, 9, 16]), ones3([2, 9, 2], 'int32'), {
      softmaxScale: 1,
    }),
  'mlaDecode: cKv must be [b=2, s, r/2=8] for packed float16, got [2, 9, 16]': () =>
    decodePacked({ cKv: [2, 9, 16] }),
  'mlaDecode: kRope must be [b=2, s=9, rr/2=2] for packed float16, got [2, 9, 4]': () =>
    decodePacked({ kRope: [2, 9, 4] }),
  "mlaDecode: r must be even for storage 'float16', got 15": () => decodePacked({ qLatent: [2, 1, 3, 15] }),
  "mlaDecode: rr must be even for storage 'float16', got 3": () => decodePacked({ qRope: [2, 1, 3, 3] }),
  "mlaDecode: qRope must be [b=2, sq=1, hq=3, rr] for layout 'bshd', got [2, 1, 2, 4]": () =>
    decode({ qRope: [2, 1, 2, 4] }),
  'mlaDecode: cKv must be [b=2, s, r=16], got [2, 9, 15]': () => decode({ cKv: [2, 9, 15] }),
  'mlaDecode: cKv must be [b=2, s, r=16], got [1, 9, 16]': () => decode({ cKv: [1, 9, 16] }),
  'mlaDecode: kRope must be [b=2, s=9, rr=4], got [2, 8, 4]': () => decode({ kRope: [2, 8, 4] }),
  'mlaDecode: r must be from 1 to 576, got 577': () => decode({ qLatent: [2, 1, 3, 577], cKv: [2, 9, 577] }),
  'mlaDecode: rr must be from 0 to 128, got 129': () => decode({ qRope: [2, 1, 3, 129], kRope: [2, 9, 129] }),
  'mlaDecode: softmaxScale is required: the latent rank is not the head size of the model (pass 1/sqrt(qk_nope_head_dim + qk_rope_head_dim), times the YaRN correction if there is one)':
    () => decode({}, {}),
  'mlaDecode: softmaxScale must be a finite number, got Infinity': () =>
    decode({}, { softmaxScale: Infinity }),
  "mlaDecode: causal must be a boolean, 'bottom-right' or 'top-left', got 1": () =>
    decode({}, { softmaxScale: 1, causal: 1 }),
  'mlaDecode: kvLengths must be b=2 integers from 0 to skv=9, got [10, 0]': () =>
    decode({}, { softmaxScale: 1, kvLengths: [10, 0] }),
});
