/** WebGPU in Node: Dawn, from npm `webgpu`. */
import { describeAdapter } from './adapter.js';
import type { AdapterDescription } from './adapter.js';

interface DawnModule {
  readonly create: (options: string[]) => GPU;
  readonly globals: object;
}

export type OpenedDawn =
  { readonly adapter: AdapterDescription } | { readonly adapter: undefined; readonly reason: string };

const toggles = [
  'enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia',
  'disable-dawn-features=timestamp_quantization',
];

/** A Dawn instance that nothing refers to is collected together with its devices. */
const instances: GPU[] = [];

/**
 * Puts Dawn where a browser has WebGPU: on `navigator.gpu`, its constants on `globalThis`. Call it before
 * `@tensorflow/tfjs-backend-webgpu` is imported, which looks for `navigator.gpu` at that moment and never again.
 */
export async function openDawn(): Promise<OpenedDawn> {
  let gpu: GPU | undefined = globalThis.navigator?.gpu;
  try {
    gpu ??= await createDawn(toggles);
  } catch (error) {
    return { adapter: undefined, reason: `npm package webgpu did not load: ${(error as Error).message}` };
  }
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter)
    return { adapter: undefined, reason: 'no Vulkan, Metal or Direct3D driver that Dawn can use' };
  putOnNavigator(gpu);
  return { adapter: describeAdapter(adapter) };
}

/** An adapter that compiles and validates WGSL, shader-f16 and subgroup matrices included, but executes nothing. */
export async function openNullDawn(): Promise<GPUAdapter> {
  const gpu = await createDawn(['backend=null', ...toggles]);
  const adapter = await gpu.requestAdapter();
  if (!adapter) throw new Error('openNullDawn: expected an adapter for backend=null, got none');
  return adapter;
}

async function createDawn(options: string[]): Promise<GPU> {
  const packageName: string = 'webgpu'; // not a literal in import(): bundlers leave it alone, its types stay out of ours
  const { create, globals } = (await import(packageName)) as DawnModule;
  Object.assign(globalThis, globals);
  const gpu = create(options);
  instances.push(gpu);
  return gpu;
}

/** Node 20 has no navigator at all; from Node 21 on it has one without gpu. */
function putOnNavigator(gpu: GPU): void {
  const navigator: object = globalThis.navigator ?? {};
  Object.defineProperty(navigator, 'gpu', { value: gpu, configurable: true });
  Object.defineProperty(globalThis, 'navigator', { value: navigator, configurable: true });
}
