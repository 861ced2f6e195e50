/** Our SIMD kernels for tfjs's 'wasm' backend, and threads for them where its memory is shared. */
import { registerWasmKernels } from '../kernels/wasm/index.js';

registerWasmKernels();

export { startThreads, stopThreads } from '../kernels/wasm/index.js';
