/** Our kernels for tfjs's 'webgpu' backend, a device of our own with all useful features and limits, and the tuner. */
import { registerWebgpuKernels } from '../kernels/webgpu/index.js';
import { keepTuningIn } from './core/tuner.js';
import { tuningStorage } from './device/tuningStorage.js';

registerWebgpuKernels();
keepTuningIn(tuningStorage());

export { installDevice } from './device/installDevice.js';
export type { InstallDeviceOptions } from './device/installDevice.js';
export { tune } from './ops/tune.js';
export type { TuneCallsOptions } from './ops/tune.js';
export type { TuneProgress, TuneRow } from './core/register.js';
export { clearTuning, exportTuning, importTuning } from './core/tuner.js';
export { setAutoTune } from '../kernels/webgpu/autoTune.js';
