import { engine, op } from '@tensorflow/tfjs-core';
import type { Tensor1D, Tensor3D, Tensor4D, TensorLike } from '@tensorflow/tfjs-core';
import { MLADecode } from '../core/names.js';
import { decodeProblem } from '../core/problem.js';
import type { DecodeOptions } from '../core/problem.js';
import { requireCacheFormat } from '../core/register.js';
import { lengthsTensor, toTensor } from '../core/tensors.js';
import type { AttentionState } from './mlaAttention.js';

export interface MlaDecodeOptions extends Omit<DecodeOptions, 'kvLengths'> {
  /** Keys in the cache: numbers from 0 to s (checked), or an int32 tensor [b] (clamped, never read back). */
  kvLengths?: readonly number[] | Tensor1D;
}

function mlaDecode_(
  qLatent: Tensor4D | TensorLike,
  qRope: Tensor4D | TensorLike,
  cKv: Tensor3D | TensorLike,
  kRope: Tensor3D | TensorLike,
  options: MlaDecodeOptions,
): Tensor4D | AttentionState {
  const fn = 'mlaDecode';
  const inputs = {
    qLatent: toTensor<Tensor4D>(qLatent),
    qRope: toTensor<Tensor4D>(qRope),
    cKv: toTensor<Tensor3D>(cKv),
    kRope: toTensor<Tensor3D>(kRope),
  };
  const problem = decodeProblem(fn, inputs, options);
  requireCacheFormat(fn, problem.cacheFormat);

  const [out, lse] = engine().runKernel(
    MLADecode,
    { ...inputs, kvLengths: lengthsTensor(options.kvLengths) },
    problem,
  ) as unknown as [Tensor4D, Tensor3D];
  if (problem.returnLse) return { out, lse };
  lse.dispose();
  return out;
}

/** The call signatures of mlaDecode. */
export interface MlaDecode {
  (
    qLatent: Tensor4D | TensorLike,
    qRope: Tensor4D | TensorLike,
    cKv: Tensor3D | TensorLike,
    kRope: Tensor3D | TensorLike,
    options: MlaDecodeOptions & { returnLse: true },
  ): AttentionState;
  (
    qLatent: Tensor4D | TensorLike,
    qRope: Tensor4D | TensorLike,
    cKv: Tensor3D | TensorLike,
    kRope: Tensor3D | TensorLike,
    options: MlaDecodeOptions & { returnLse?: false },
  ): Tensor4D;
}

/**
 * Absorbed attention over the compressed cache:
 * softmax(softmaxScale · (qLatent·cKvᵀ + qRope·kRopeᵀ) + mask) · cKv, with dense gradients for all four inputs.
 *
 * qLatent [b, sq, hq, r] (q_nope already multiplied by W_uk), qRope [b, sq, hq, rr] (`layout` for both), cKv
 * [b, s, r], kRope [b, s, rr] → out [b, sq, hq, r]; the caller applies W_uv. r up to 576, rr up to 128. All heads
 * read one cache row. With `returnLse` → {out, lse [b, hq, sq]}, and the gradient of lse flows too.
 *
 * `causal` defaults to true, aligned at the bottom right of the lengths. `softmaxScale` is required. cKv and kRope
 * may be a LatentCache's; if it is a packed one (storage 'float16': int32 [b, s, r/2] and [b, s, rr/2]), which is read
 * as it is, only qLatent and qRope have gradients. A row that sees no key gives out 0, lse -Infinity and gradients 0.
 *
 * Throws on bad rank, dtype, shapes and options, and on a backend that cannot read the cache, before anything runs.
 *
 * Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.2 (absorbing W_uk and W_uv) and appendix C.
 */
export const mlaDecode = op({ mlaDecode_ }) as unknown as MlaDecode;
