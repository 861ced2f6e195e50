/** The forward over the compressed cache: mlaAttention.ts with the latent as key and value. */
import type { MathBackendCPU } from '@tensorflow/tfjs-backend-cpu';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import type { DecodeInputs } from '../../src/core/kernelInputs.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { attend } from './mlaAttention.js';
import type { OperandInfos } from './rows.js';

/** MLADecode: qLatent, qRope, cKv, kRope, kvLengths → out, lse. */
export function mlaDecode(problem: MlaProblem, inputs: DecodeInputs, backend: MathBackendCPU): TensorInfo[] {
  return attend(problem, decodeOperands(inputs), backend);
}

export function decodeOperands({ qLatent, qRope, cKv, kRope, kvLengths }: DecodeInputs): OperandInfos {
  return { q: qLatent, qRope, k: cKv, kRope, v: cKv, kvLengths };
}
