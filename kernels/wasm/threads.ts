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
  await stopPool(backend);
  const jobBytes = (kernelsFor(memory) as ThreadedKernels).jobBytes();
  const job = allocate(backend, jobBytes);
  new Uint8Array(memory.buffer, job, jobBytes).fill(0);
  const pool: Pool = { job, workers: [] };
  pools.set(memory, pool);
  try {
    for (let thread = 1; thread < count; thread++) pool.workers.push(await startWorker(memory, job, thread));
  } catch (error) {
    await stopPool(backend);
    throw error;
  }
  return threadCount(memory);
}

/** Kernels run on the calling thread alone from now on. Resolves when the workers have ended. */
export async function stopPool(backend: BackendWasm): Promise<void> {
  const memory = memoryOf(backend);
  const pool = memory && pools.get(memory);
  if (!pool) return;
  pools.delete(memory);
  (kernelsFor(memory) as ThreadedKernels).endJobs(pool.job);
  await Promise.all(pool.workers.map(nextMessage));
  for (const worker of pool.workers) worker.terminate();
  release(backend, pool.job);
}

/** A worker's whole program. `serve` sleeps between kernels, until they end. */
const program = `onmessage = ({ data: { module, memory, job, thread } }) => {
  const instance = new WebAssembly.Instance(module, { env: { memory }, host: { log: Math.log } });
  postMessage('ready');
  instance.exports.serve(job, thread);
  postMessage('ended');
};`;

async function startWorker(memory: WebAssembly.Memory, job: number, thread: number): Promise<Worker> {
  // from a text, so that no bundler has to know of a file
  const url = URL.createObjectURL(new Blob([program], { type: 'text/javascript' }));
  try {
    const worker = new Worker(url);
    worker.postMessage({ module: moduleFor(memory), memory, job, thread });
    await nextMessage(worker);
    return worker;
  } finally {
    URL.revokeObjectURL(url);
  }
}

function nextMessage(worker: Worker): Promise<void> {
  return new Promise((resolve, reject) => {
    worker.onmessage = () => resolve();
    worker.onerror = ({ message }) => reject(new Error(`startThreads: a worker does not run: ${message}`));
  });
}
