/** Workers that share a kernel's work with the thread that calls it, where tfjs's memory is shared. */
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import { isShared, kernelsFor, moduleFor } from './compiled.js';
import type { ThreadedKernels } from './compiled.js';
import { allocate, memoryOf, release } from './memory.js';

interface Pool {
  /** address of the block through which the workers learn of work */
  job: number;
  workers: Worker[];
}

const pools = new WeakMap<WebAssembly.Memory, Pool>();

/** Threads that share a kernel's work, the calling one included. */
export function threadCount(memory: WebAssembly.Memory): number {
  return 1 + (pools.get(memory)?.workers.length ?? 0);
}

/** Runs a compiled kernel on all threads of the memory. */
export function runOnAllThreads(
  memory: WebAssembly.Memory,
  kernel: number,
  problem: number,
  takeScratch: (bytes: number) => number,
): void {
  const kernels = kernelsFor(memory);
  const pool = pools.get(memory);
  const bytes = kernels.scratchBytes(kernel, problem);
  if (!pool) {
    kernels.run(kernel, problem, takeScratch(bytes));
    return;
  }
  const scratch = takeScratch(bytes * threadCount(memory));
  (kernels as ThreadedKernels).runOnThreads(pool.job, kernel, problem, scratch, bytes);
}

/** Starts so many threads, in place of those that there are. Resolves to their number: 1 on memory of one thread. */
export async function startPool(backend: BackendWasm, count: number): Promise<number> {
  const memory = memoryOf(backend);
  if (!memory || !isShared(memory)) return 1;
  stopPool(backend);
  const jobBytes = (kernelsFor(memory) as ThreadedKernels).jobBytes();
  const job = allocate(backend, jobBytes);
  new Uint8Array(memory.buffer, job, jobBytes).fill(0);
  const workers = Array.from({ length: count - 1 }, newWorker);
  try {
    await Promise.all(workers.map((worker, index) => enlist(worker, memory, job, index + 1)));
  } catch (error) {
    endPool(backend, { job, workers });
    throw error;
  }
  pools.set(memory, { job, workers });
  return threadCount(memory);
}

/** Ends the workers; kernels then run on the calling thread alone. */
export function stopPool(backend: BackendWasm): void {
  const memory = memoryOf(backend);
  const pool = memory && pools.get(memory);
  if (!pool) return;
  pools.delete(memory);
  endPool(backend, pool);
}

function endPool(backend: BackendWasm, { job, workers }: Pool): void {
  for (const worker of workers) worker.terminate();
  release(backend, job);
}

/** A worker's whole program. `serve` sleeps between kernels and never returns. */
const program = `onmessage = ({ data: { module, memory, job, thread } }) => {
  const instance = new WebAssembly.Instance(module, { env: { memory }, host: { log: Math.log } });
  postMessage('ready');
  instance.exports.serve(job, thread);
};`;

/** From a text, so that no bundler has to know of a file. */
function newWorker(): Worker {
  const url = URL.createObjectURL(new Blob([program], { type: 'text/javascript' }));
  try {
    return new Worker(url);
  } finally {
    URL.revokeObjectURL(url);
  }
}

function enlist(worker: Worker, memory: WebAssembly.Memory, job: number, thread: number): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.onmessage = () => resolve();
    worker.onerror = ({ message }) => reject(new Error(`startThreads: a worker could not start: ${message}`));
    worker.postMessage({ module: moduleFor(memory), memory, job, thread });
  });
}
