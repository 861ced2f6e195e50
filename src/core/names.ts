/** The kernels by name: the one vocabulary that ops, gradients and backends share. */
export const MLAAttention = 'MLAAttention';
export const MLADelta = 'MLADelta';
export const MLAAttentionDq = 'MLAAttentionDq';
export const MLAAttentionDkv = 'MLAAttentionDkv';
/** MLADelta, …Dq and …Dkv at once, for a backend whose kernels have work in common; it may be absent. */
export const MLAAttentionBackward = 'MLAAttentionBackward';
export const MLADecode = 'MLADecode';
export const MLADecodeDq = 'MLADecodeDq';
export const MLADecodeDkv = 'MLADecodeDkv';
export const MLACacheAppend = 'MLACacheAppend';

export const kernelNames = [
  MLAAttention,
  MLADelta,
  MLAAttentionDq,
  MLAAttentionDkv,
  MLAAttentionBackward,
  MLADecode,
  MLADecodeDq,
  MLADecodeDkv,
  MLACacheAppend,
] as const;

export type KernelName = (typeof kernelNames)[number];
