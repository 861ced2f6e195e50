/** The gradient of the absorbed queries: mlaAttentionDq.ts with latent and rope part as two tensors. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { sizeOf } from '../../src/core/layout.js';
import type { BackwardInputs, DecodeInputs } from '../../src/core/kernelInputs.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { attendDq } from './mlaAttentionDq.js';
import { decodeOperands } from './mlaDecode.js';
import { resultRows } from './rows.js';

/** MLADecodeDq: qLatent, qRope, cKv, kRope, kvLengths, dOut, lse, delta → dQLatent, dQRope. */
export function mlaDecodeDq(
  problem: MlaProblem,
  inputs: DecodeInputs & BackwardInputs,
  backend: MathBackendCPU,
): TensorInfo[] {
  const { strides } = problem;
  const dQLatent = new Float32Array(sizeOf(inputs.qLatent.shape));
  const dQRope = new Float32Array(sizeOf(inputs.qRope.shape));
  attendDq(
    problem,
    decodeOperands(inputs),
    inputs,
    { dQ: resultRows(dQLatent, strides.q), dQRope: resultRows(dQRope, strides.qRope) },
    backend,
  );
  return [
    backend.makeTensorInfo(inputs.qLatent.shape, 'float32', dQLatent),
    backend.makeTensorInfo(inputs.qRope.shape, 'float32', dQRope),
  ];
}
