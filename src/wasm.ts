/** Our SIMD kernels for tfjs's 'wasm' backend. */
import { registerWasmKernels } from '../kernels/wasm/index.js';

registerWasmKernels();
