/** The GPU that this machine offers to the tests. A page gets gpu.browser.ts in place of this file. */
import { openDawn } from '../../src/device/node.js';
import type { OpenedDawn } from '../../src/device/node.js';

export async function openGpu(): Promise<OpenedDawn> {
  return openDawn();
}
