/** Our kernels for tfjs's 'webgpu' backend, and a device of our own with all useful features and limits. */
import { registerWebgpuKernels } from '../kernels/webgpu/index.js';

registerWebgpuKernels();

export { installDevice } from './device/installDevice.js';
export type { InstallDeviceOptions } from './device/installDevice.js';
