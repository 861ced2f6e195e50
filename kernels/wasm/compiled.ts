/** The compiled kernels: which of the variants an engine gets, and an instance on a given memory. */
import { relaxedSimd, sharedRelaxedSimd, sharedSimd, simd } from './binaries.js';

/** Numbers of the kernels in assembly/index.ts; MLADecode's are the same as MLAAttention's. */
export const kernelIds = { forward: 0, delta: 1, dq: 2, dkv: 3 } as const;

/** What assembly/index.ts exports. Addresses are bytes in the memory that the instance was made on. */
export interface CompiledKernels {
  LEFT: WebAssembly.Global<'i32'>;
  RIGHT: WebAssembly.Global<'i32'>;
  problemBytes(): number;
  scratchBytes(kernel: number, problem: number): number;
  run(kernel: number, problem: number, scratch: number): void;
}

/** What assembly/threads.ts adds in the variants for shared memory. */
export interface ThreadedKernels extends CompiledKernels {
  jobBytes(): number;
  endJobs(job: number): void;
  runOnThreads(job: number, kernel: number, problem: number, scratch: number, scratchBytes: number): void;
}

const binaries = { simd, relaxedSimd, sharedSimd, sharedRelaxedSimd };

export type Variant = keyof typeof binaries;

const modules = new Map<Variant, WebAssembly.Module>();

export function isShared(memory: WebAssembly.Memory): boolean {
  // pages that are not isolated have no such class
  return typeof SharedArrayBuffer !== 'undefined' && memory.buffer instanceof SharedArrayBuffer;
}

/** The variant for a memory on this engine. Throws if the engine has no SIMD. */
export function variantFor(memory: WebAssembly.Memory): Variant {
  if (!engineHas('simd')) {
    throw new Error(
      "tfjs-mla/wasm: required: WebAssembly SIMD, which this engine lacks; use tfjs's cpu backend",
    );
  }
  if (engineHas('relaxedSimd')) return isShared(memory) ? 'sharedRelaxedSimd' : 'relaxedSimd';
  return isShared(memory) ? 'sharedSimd' : 'simd';
}

export function moduleFor(memory: WebAssembly.Memory): WebAssembly.Module {
  const variant = variantFor(memory);
  const module = modules.get(variant) ?? new WebAssembly.Module(bytesOf(binaries[variant]));
  modules.set(variant, module);
  return module;
}

const instances = new WeakMap<WebAssembly.Memory, CompiledKernels>();

/** The kernels on a memory: the same instance every time. */
export function kernelsFor(memory: WebAssembly.Memory): CompiledKernels {
  const known = instances.get(memory);
  if (known) return known;
  const kernels = instantiate(moduleFor(memory), memory);
  instances.set(memory, kernels);
  return kernels;
}

function instantiate(module: WebAssembly.Module, memory: WebAssembly.Memory): CompiledKernels {
  // WebAssembly has no logarithm of its own
  const instance = new WebAssembly.Instance(module, { env: { memory }, host: { log: Math.log } });
  return instance.exports as unknown as CompiledKernels;
}

const engine = new Map<Variant, boolean>();

export function engineHas(name: 'simd' | 'relaxedSimd'): boolean {
  const known = engine.get(name) ?? WebAssembly.validate(bytesOf(binaries[name]));
  engine.set(name, known);
  return known;
}

function bytesOf(base64: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
