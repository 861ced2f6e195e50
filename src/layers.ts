// the ops that these are made of, with their gradients and the cpu kernels
import './index.js';

export { MultiHeadLatentAttention } from './layers/multiHeadLatentAttention.js';
export type { AttentionCall, MultiHeadLatentAttentionArgs } from './layers/multiHeadLatentAttention.js';
export type { MultiHeadLatentAttentionConfig } from './layers/attentionConfig.js';
export { RMSNorm, rmsNorm } from './layers/rmsNorm.js';
export type { RMSNormArgs } from './layers/rmsNorm.js';
export { RotaryEmbedding } from './layers/rotaryEmbedding.js';
export type { RopeScaling, RopeTables, RotaryEmbeddingConfig } from './layers/rotaryEmbedding.js';
export { SwiGLU } from './layers/swiGlu.js';
export type { SwiGLUArgs } from './layers/swiGlu.js';
export { TokenEmbedding, embed } from './layers/embedding.js';
export type { TokenEmbeddingArgs } from './layers/embedding.js';
export { crossEntropy } from './layers/crossEntropy.js';
