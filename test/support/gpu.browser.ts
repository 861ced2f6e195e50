/** The GPU that this browser offers to the tests; stands in for gpu.ts. */
import { describeAdapter } from '../../src/device/adapter.js';
import type * as node from './gpu.js';

export const openGpu: typeof node.openGpu = async () => {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) return { adapter: undefined, reason: 'this browser has no WebGPU adapter' };
  return { adapter: describeAdapter(adapter) };
};
