/** The inputs of each kernel, the same on every backend. Optional ones are always there; absent = zero-size. */
import type { TensorInfo } from '@tensorflow/tfjs-core';

export interface AttentionInputs {
  q: TensorInfo;
  k: TensorInfo;
  v: TensorInfo;
  /** optional */
  kRope: TensorInfo;
  /** optional, int32 [b] */
  qLengths: TensorInfo;
  /** optional, int32 [b] */
  kvLengths: TensorInfo;
}

export interface DecodeInputs {
  qLatent: TensorInfo;
  qRope: TensorInfo;
  /** float32, or packed as the problem's cacheFormat says, like kRope */
  cKv: TensorInfo;
  kRope: TensorInfo;
  /** optional, int32 [b] */
  kvLengths: TensorInfo;
}

/** What the gradient's kernels get beside the forward's inputs. */
export interface BackwardInputs {
  dOut: TensorInfo;
  lse: TensorInfo;
  delta: TensorInfo;
}

export interface DeltaInputs {
  out: TensorInfo;
  dOut: TensorInfo;
  /** optional */
  dLse: TensorInfo;
}

/** The same for the kernel that joins them, and computes delta itself. */
export interface JoinedBackwardInputs extends DeltaInputs {
  lse: TensorInfo;
}

export interface CacheAppendInputs {
  /** float32, or int32: packed float16, like kRope; the new rows are float32 and are packed while they are written */
  cKv: TensorInfo;
  kRope: TensorInfo;
  newCkv: TensorInfo;
  newKRope: TensorInfo;
  /** int32 [2, b]: rows in the cache before, rows to add */
  lengths: TensorInfo;
}

/** Inputs by kernel name. */
export interface KernelInputs {
  MLAAttention: AttentionInputs;
  MLADelta: DeltaInputs;
  MLAAttentionDq: AttentionInputs & BackwardInputs;
  MLAAttentionDkv: AttentionInputs & BackwardInputs;
  MLAAttentionBackward: AttentionInputs & JoinedBackwardInputs;
  MLADecode: DecodeInputs;
  MLADecodeDq: DecodeInputs & BackwardInputs;
  MLADecodeDkv: DecodeInputs & BackwardInputs;
  MLACacheAppend: CacheAppendInputs;
}
