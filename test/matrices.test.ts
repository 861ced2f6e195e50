/** Lane T3: the table of cases on subgroup matrices, within the bounds of float16. Needs a device that has them. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import * as tf from '@tensorflow/tfjs-core';
import { capabilitiesOf } from '../kernels/webgpu/capabilities.js';
import type { ComparedKernel } from './support/answers.js';
import { availableDevices } from './support/devices.js';
import { casesOf, compareWithReference } from './support/kernelTest.js';
import { itForEach, toTensor } from './support/onDevice.js';

const kernels: ComparedKernel[] = [
  'MLAAttention',
  'MLADecode',
  'MLAAttentionDq',
  'MLAAttentionDkv',
  'MLADecodeDq',
  'MLADecodeDkv',
];

describe('precision float16', () => {
  const device = availableDevices().find(({ backend, isSoftware }) => backend === 'webgpu' && !isSoftware);
  if (!device) {
    it.skip('no GPU with subgroup matrices here');
    return;
  }
  before(async function () {
    await device.setUp({ own: true });
    const { matrices } = capabilitiesOf((tf.backend() as WebGPUBackend).device);
    if (matrices.length === 0) this.skip();
  });
  for (const kernel of kernels) {
    describe(kernel, () => {
      itForEach(casesOf(kernel), device, (c) => compareWithReference(kernel, c, toTensor, 'float16'));
    });
  }
});
