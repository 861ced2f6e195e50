/** The gradient of the cache: the latent is key and value, so dCkv is the sum of B5 and B6. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../src/core/layout.js';
import type { BackwardInputs, DecodeInputs } from '../../src/core/kernelInputs.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { attendDkv } from './mlaAttentionDkv.js';
import { decodeOperands } from './mlaDecode.js';
import { resultRows, startOf } from './rows.js';

/** MLADecodeDkv: qLatent, qRope, cKv, kRope, kvLengths, dOut, lse, delta → dCkv, dKRope. */
export function mlaDecodeDkv(
  problem: MlaProblem,
  inputs: DecodeInputs & BackwardInputs,
  backend: MathBackendCPU,
): TensorInfo[] {
  const { cKv, kRope } = inputs;
  const dCkv = resultRows(new Float32Array(sizeOf(cKv.shape)), problem.strides.k);
  const infos = decodeOperands(inputs);
  const dKRope = attendDkv(problem, infos, inputs, backend, ({ b, j, sumK, sumV }) => {
    const start = startOf(dCkv, b, j, 0);
    for (let c = 0; c < problem.dn; c++) dCkv.values[start + c] = sumK[c] + sumV[c];
  });
  return [
    backend.makeTensorInfo(cKv.shape, 'float32', dCkv.values),
    backend.makeTensorInfo(kRope.shape, 'float32', dKRope),
  ];
}
