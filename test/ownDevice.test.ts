/** The kernels once more on a device with all the limits and features of the adapter: other lanes, other tiles. */
import { signatures } from './support/answers.js';
import type { ComparedKernel } from './support/answers.js';
import { onEachDevice } from './support/devices.js';
import { casesOf, compareWithReference } from './support/kernelTest.js';
import { itForEach } from './support/onDevice.js';

/** What a software GPU does again: lane T1s, with one tile and with several, and larger tiles. */
const chosen = [
  ...['deepseek, rope apart', 'grouped heads 8 on 2', 'rows that see nothing', '129 rows, 113 keys'],
  ...['no rope', 'four tokens, ragged'],
];

describe('our own device', () => {
  onEachDevice(
    (device) => {
      // the cpu backend has no device
      if (device.backend !== 'webgpu') return;
      for (const kernel of Object.keys(signatures) as ComparedKernel[]) {
        describe(kernel, () => {
          const all = casesOf(kernel);
          const cases = device.isSoftware ? all.filter(({ name }) => chosen.includes(name)) : all;
          itForEach(cases, device, (c) => compareWithReference(kernel, c));
          if (cases.length < all.length) it.skip(`${all.length - cases.length} more cases: on hardware`);
        });
      }
    },
    { own: true },
  );
});
