/**
 * Where a call's tensors lie: in the memory of tfjs's backend itself or, should a build of it not show its memory, in
 * one of our own with copies to and fro. The only file that knows BackendWasm's insides.
 */
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../src/core/layout.js';

/** The memory of one call. Whoever begins one owes it `end`, in every path. */
export interface CallMemory {
  readonly memory: WebAssembly.Memory;
  /** The address of a tensor's values. */
  read(info: TensorInfo): number;
  /** Likewise, of a tensor that the kernel writes as a whole. */
  write(info: TensorInfo): number;
  /** May grow the memory, which detaches its buffer but leaves addresses as they are. */
  allocate(bytes: number): number;
  /** Gives back what was allocated. */
  end(): void;
}

/** What we use of the module that Emscripten made of tfjs's kernels. */
interface EmscriptenModule {
  /** the exports of the build for one thread */
  asm?: { memory?: WebAssembly.Memory };
  /** the threaded build's */
  wasmMemory?: WebAssembly.Memory;
  HEAPU8: Uint8Array;
  _malloc(bytes: number): number;
  _free(address: number): void;
}

function emscripten({ wasm }: BackendWasm): EmscriptenModule {
  return wasm as unknown as EmscriptenModule;
}

export function beginCall(backend: BackendWasm): CallMemory {
  const memory = memoryOf(backend);
  return memory ? new MemoryInPlace(backend, memory) : new MemoryOfCopies(backend);
}

/** The backend's memory, if this build of it shows it. */
export function memoryOf(backend: BackendWasm): WebAssembly.Memory | undefined {
  const { asm, wasmMemory } = emscripten(backend);
  return wasmMemory ?? asm?.memory;
}

/** The address of new memory from the backend's own allocator. Throws if there is none left. */
export function allocate(backend: BackendWasm, bytes: number): number {
  const address = emscripten(backend)._malloc(bytes) >>> 0;
  if (address === 0 && bytes > 0) throwFull(bytes);
  return address;
}

export function release(backend: BackendWasm, address: number): void {
  emscripten(backend)._free(address);
}

class MemoryInPlace implements CallMemory {
  private readonly allocated: number[] = [];

  constructor(
    private readonly backend: BackendWasm,
    readonly memory: WebAssembly.Memory,
  ) {}

  read(info: TensorInfo): number {
    return addressOf(this.backend, info);
  }

  write(info: TensorInfo): number {
    return addressOf(this.backend, info);
  }

  allocate(bytes: number): number {
    const address = allocate(this.backend, bytes);
    this.allocated.push(address);
    return address;
  }

  end(): void {
    for (const address of this.allocated.splice(0)) release(this.backend, address);
  }
}

let own: WebAssembly.Memory | undefined;

/** For backends that hide theirs. Kept from call to call: memory can grow, but not shrink. */
export function ownMemory(): WebAssembly.Memory {
  return (own ??= new WebAssembly.Memory({ initial: 1 }));
}

class MemoryOfCopies implements CallMemory {
  readonly memory = ownMemory();
  private readonly written: TensorInfo[] = [];
  /** One copy of a tensor that a call has twice, such as a latent that is key and value. */
  private readonly addresses = new Map<object, number>();
  // 0 stands for a tensor that is absent
  private next = 16;

  constructor(private readonly backend: BackendWasm) {}

  read(info: TensorInfo): number {
    const known = this.addresses.get(info.dataId);
    if (known !== undefined) return known;
    const address = this.allocate(bytesOf(info));
    new Uint8Array(this.memory.buffer, address, bytesOf(info)).set(this.valuesOf(info));
    this.addresses.set(info.dataId, address);
    return address;
  }

  write(info: TensorInfo): number {
    const address = this.addresses.get(info.dataId) ?? this.allocate(bytesOf(info));
    this.addresses.set(info.dataId, address);
    this.written.push(info);
    return address;
  }

  allocate(bytes: number): number {
    const address = this.next;
    this.next += Math.ceil(bytes / 16) * 16;
    const missing = this.next - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
    return address;
  }

  end(): void {
    for (const info of this.written) {
      const address = this.addresses.get(info.dataId) ?? 0;
      this.valuesOf(info).set(new Uint8Array(this.memory.buffer, address, bytesOf(info)));
    }
  }

  private valuesOf(info: TensorInfo): Uint8Array {
    const address = addressOf(this.backend, info);
    return emscripten(this.backend).HEAPU8.subarray(address, address + bytesOf(info));
  }
}

/** The backend itself does not look whether it got memory for a tensor. */
function addressOf(backend: BackendWasm, info: TensorInfo): number {
  const { memoryOffset } = backend.dataIdMap.get(info.dataId);
  if (memoryOffset === 0 && bytesOf(info) > 0) throwFull(bytesOf(info));
  return memoryOffset;
}

function bytesOf({ shape }: TensorInfo): number {
  return 4 * sizeOf(shape);
}

function throwFull(bytes: number): never {
  throw new Error(`tfjs-mla/wasm: the backend's memory is full: no room for ${bytes} bytes more`);
}
