import { findBackendFactory, registerBackend, removeBackend, setBackend } from '@tensorflow/tfjs-core';
import type { backend_util } from '@tensorflow/tfjs-core';
import { rememberAdapter } from '../../kernels/webgpu/capabilities.js';
import { settled, throwFailure } from '../../kernels/webgpu/pipeline.js';
import { fail } from '../core/errors.js';

export interface InstallDeviceOptions {
  /** A device that the page owns already; by default one is requested with all that the adapter has to offer. */
  device?: GPUDevice;
  /** Where adapters come from. Default navigator.gpu. */
  gpu?: GPU;
}

const usefulFeatures = [
  'shader-f16',
  'subgroups',
  'subgroup-size-control',
  'chromium-experimental-subgroup-matrix',
  'timestamp-query',
  'bgra8unorm-storage',
];

const usefulLimits = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
] as const;

/**
 * Registers tfjs's 'webgpu' backend anew on a device of our own, with every feature and limit that our kernels can
 * use, and makes it the current backend. Call it before any tensor exists: those on the old device are lost.
 *
 * On this device reading a result rejects if a GPU command before it was invalid, instead of handing over zeros.
 *
 * Throws when there is no WebGPU, no adapter, or the device cannot be made; the stock registration is back then.
 */
export async function installDevice({ device, gpu }: InstallDeviceOptions = {}): Promise<void> {
  const fn = 'installDevice';
  const source = gpu ?? (globalThis.navigator as Navigator | undefined)?.gpu;
  if (!device && !source) fail(fn, 'required: WebGPU, supported: no navigator.gpu here');
  const { WebGPUBackend } = await import('@tensorflow/tfjs-backend-webgpu');

  class OwnDeviceBackend extends WebGPUBackend {
    override async read(dataId: object): Promise<backend_util.TypedArray> {
      const values = await super.read(dataId);
      await settled(this.device);
      throwFailure('webgpu', this.device);
      return values as backend_util.TypedArray;
    }
  }

  let info: GPUAdapterInfo | undefined;
  let ready = device;
  if (!ready && source) {
    const adapter = await source.requestAdapter({ powerPreference: 'high-performance' });
    if (!adapter) fail(fn, 'required: a WebGPU adapter, supported: none found');
    // the installed WebGPU types are older than adapter.info
    info = (adapter as GPUAdapter & { info?: GPUAdapterInfo }).info;
    ready = await adapter.requestDevice({
      requiredFeatures: usefulFeatures.filter((feature) => adapter.features.has(feature)) as GPUFeatureName[],
      requiredLimits: Object.fromEntries(usefulLimits.map((limit) => [limit, adapter.limits[limit]])),
    });
  }
  const ownDevice = ready as GPUDevice;
  rememberAdapter(ownDevice, info);
  const stock = findBackendFactory('webgpu');
  if (stock !== undefined) removeBackend('webgpu');
  registerBackend('webgpu', () => new OwnDeviceBackend(ownDevice, info), 3);
  if (await setBackend('webgpu')) return;
  removeBackend('webgpu');
  if (stock !== undefined) registerBackend('webgpu', stock, 3);
  fail(fn, "tfjs could not set up its 'webgpu' backend on the device");
}
