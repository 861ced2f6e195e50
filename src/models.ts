// the ops that these are made of, with their gradients and the cpu kernels
import './index.js';

export { Adam } from './models/adam.js';
export type { AdamOptions, Moments } from './models/adam.js';
export { DeepseekModel, loadDeepseek } from './models/deepseek.js';
export type { DeepseekModelOptions } from './models/deepseek.js';
export { readConfig, writeConfig } from './models/config.js';
export type { DeepseekConfig } from './models/config.js';
export { generate } from './models/generate.js';
export type { GenerateOptions, GenerateReport, Generation } from './models/generate.js';
export { createRandom } from './models/random.js';
export type { SamplingOptions } from './models/sampling.js';
export { readJson, readWeights } from './models/checkpoint.js';
export type { CheckpointFiles } from './models/checkpoint.js';
export { joinParts, restoreParameters, splitParts, storeParameters } from './models/parameters.js';
export type { ModelParameter } from './models/parameters.js';
export { float32Values, readSafetensors, storeFloat32, writeSafetensors } from './models/safetensors.js';
export type { SafetensorsDtype, SafetensorsFile, StoredTensor } from './models/safetensors.js';
