/** The ops, their gradients, and the reference kernels for tfjs's 'cpu' backend. Other backends have doors of their own. */
import { registerGradients } from '../gradients/index.js';
import { registerCpuKernels } from '../kernels/cpu/index.js';

registerGradients();
registerCpuKernels();

export { mlaAttention } from './ops/mlaAttention.js';
export type { AttentionState, MlaAttention, MlaAttentionOptions } from './ops/mlaAttention.js';
export { mlaDecode } from './ops/mlaDecode.js';
export type { MlaDecode, MlaDecodeOptions } from './ops/mlaDecode.js';
export { mergeStates } from './ops/mergeStates.js';
export { LatentCache } from './cache/latentCache.js';
export type { LatentCacheConfig } from './cache/latentCache.js';
export { dotProductAttention } from './ops/dotProductAttention.js';
export type { DotProductAttentionOptions } from './ops/dotProductAttention.js';
export { explain } from './ops/explain.js';
export type { AttentionShapes, Call, DecodeShapes } from './ops/explain.js';
export { warmup } from './ops/warmup.js';
export { setDefaultPrecision } from './core/precision.js';
export type { Precision } from './core/precision.js';
export type { CacheFormat } from './core/cacheFormat.js';
export type { Layout } from './core/layout.js';
export type { Lengths } from './core/problem.js';
export type { PassedOver, Plan } from './core/register.js';
export type { KernelName } from './core/names.js';
