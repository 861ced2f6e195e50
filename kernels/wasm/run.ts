/** The kernels: which tensors each reads and writes. */
import type { BackendWasm } from '@tensorflow/tfjs-backend-wasm';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { packFloat16 } from '../../src/core/float16.js';
import type {
  AttentionInputs,
  BackwardInputs,
  CacheAppendInputs,
  DecodeInputs,
  DeltaInputs,
} from '../../src/core/kernelInputs.js';
import { shapeOf, sizeOf } from '../../src/core/layout.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { kernelIds } from './compiled.js';
import { beginCall } from './memory.js';
import { blockBytes, writeProblemBlock } from './problemBlock.js';
import type { AddressName } from './problemBlock.js';
import { runOnAllThreads } from './threads.js';

type Tensors = Partial<Record<AddressName, TensorInfo>>;

/** MLAAttention and MLADecode → out, lse. */
export function runForward(problem: MlaProblem, reads: Tensors, backend: BackendWasm): TensorInfo[] {
  const { b, hq, sq, dv, layout } = problem;
  return withOutputs(backend, [shapeOf({ b, s: sq, h: hq, d: dv }, layout), [b, hq, sq]], ([out, lse]) =>
    runCompiled('forward', problem, reads, { out, lse }, backend),
  );
}

/** MLADelta → delta. */
export function runDelta(
  problem: MlaProblem,
  { out, dOut, dLse }: DeltaInputs,
  backend: BackendWasm,
): TensorInfo {
  const { b, hq, sq } = problem;
  const reads = { out, dOut, ...(sizeOf(dLse.shape) > 0 && { dLse }) };
  const [delta] = withOutputs(backend, [[b, hq, sq]], ([delta]) =>
    runCompiled('delta', problem, reads, { delta }, backend),
  );
  return delta;
}

/** MLAAttentionDq → dQ. */
export function runAttentionDq(
  problem: MlaProblem,
  inputs: AttentionInputs & BackwardInputs,
  backend: BackendWasm,
): TensorInfo {
  const reads = { ...attentionTensors(problem, inputs), ...backwardTensors(inputs) };
  const [dQ] = withOutputs(backend, [inputs.q.shape], ([dQ]) =>
    runCompiled('dq', problem, reads, { dQ, dQRope: dQ }, backend),
  );
  return dQ;
}

/** MLADecodeDq → dQLatent, dQRope. */
export function runDecodeDq(
  problem: MlaProblem,
  inputs: DecodeInputs & BackwardInputs,
  backend: BackendWasm,
): TensorInfo[] {
  const reads = { ...decodeTensors(problem, inputs), ...backwardTensors(inputs) };
  return withOutputs(backend, [inputs.qLatent.shape, inputs.qRope.shape], ([dQ, dQRope]) =>
    runCompiled('dq', problem, reads, { dQ, dQRope }, backend),
  );
}

/** MLAAttentionDkv → dK, dV, dKRope. */
export function runAttentionDkv(
  problem: MlaProblem,
  inputs: AttentionInputs & BackwardInputs,
  backend: BackendWasm,
): TensorInfo[] {
  const { k, v, kRope } = inputs;
  const reads = { ...attentionTensors(problem, inputs), ...backwardTensors(inputs) };
  return withOutputs(backend, [k.shape, v.shape, kRope.shape], ([dK, dV, dKRope]) =>
    runCompiled('dkv', problem, reads, { dK, dV, dKRope }, backend),
  );
}

/** MLADecodeDkv → dCkv, dKRope. */
export function runDecodeDkv(
  problem: MlaProblem,
  inputs: DecodeInputs & BackwardInputs,
  backend: BackendWasm,
): TensorInfo[] {
  const reads = { ...decodeTensors(problem, inputs), ...backwardTensors(inputs) };
  return withOutputs(backend, [inputs.cKv.shape, inputs.kRope.shape], ([dK, dKRope]) =>
    runCompiled('dkv', problem, reads, { dK, dKRope }, backend),
  );
}

/** MLACacheAppend → nothing: the rows are copied, or packed, within the backend's memory. */
export function runCacheAppend(
  { cKv, kRope, newCkv, newKRope, lengths }: CacheAppendInputs,
  backend: BackendWasm,
): TensorInfo[] {
  const counts = backend.typedArrayFromHeap(lengths);
  const append = (cache: TensorInfo, rows: TensorInfo): void => {
    const [batch, n, columns] = rows.shape;
    const capacity = cache.shape[1];
    const from = backend.typedArrayFromHeap(rows) as Float32Array;
    const to = backend.typedArrayFromHeap(cache);
    for (let b = 0; b < batch; b++) {
      const added = from.subarray(b * n * columns, (b * n + counts[batch + b]) * columns);
      const at = (b * capacity + counts[b]) * columns;
      if (to instanceof Int32Array) packFloat16(to, at, added);
      else to.set(added, at);
    }
  };
  append(cKv, newCkv);
  append(kRope, newKRope);
  return [];
}

export function attentionTensors(
  { hasQLengths, hasKvLengths }: MlaProblem,
  { q, k, v, kRope, qLengths, kvLengths }: AttentionInputs,
): Tensors {
  return { q, qRope: q, k, kRope, v, ...(hasQLengths && { qLengths }), ...(hasKvLengths && { kvLengths }) };
}

/** The latent is key and value. */
export function decodeTensors(
  { hasKvLengths }: MlaProblem,
  { qLatent, qRope, cKv, kRope, kvLengths }: DecodeInputs,
): Tensors {
  return { q: qLatent, qRope, k: cKv, kRope, v: cKv, ...(hasKvLengths && { kvLengths }) };
}

function backwardTensors({ dOut, lse, delta }: BackwardInputs): Tensors {
  return { dOut, lse, delta };
}

/** New tensors, which are taken back if they cannot be written. */
function withOutputs(
  backend: BackendWasm,
  shapes: number[][],
  write: (outputs: TensorInfo[]) => void,
): TensorInfo[] {
  const outputs = shapes.map((shape) => backend.makeOutput(shape, 'float32'));
  try {
    write(outputs);
  } catch (error) {
    for (const { dataId } of outputs) backend.disposeData(dataId);
    throw error;
  }
  return outputs;
}

function runCompiled(
  kernel: keyof typeof kernelIds,
  problem: MlaProblem,
  reads: Tensors,
  writes: Tensors,
  backend: BackendWasm,
): void {
  const id = kernelIds[kernel];
  const call = beginCall(backend);
  try {
    const addresses: Partial<Record<AddressName, number>> = {};
    for (const [name, info] of Object.entries(reads)) addresses[name as AddressName] = call.read(info);
    for (const [name, info] of Object.entries(writes)) addresses[name as AddressName] = call.write(info);
    const block = call.allocate(blockBytes);
    writeProblemBlock(new DataView(call.memory.buffer, block, blockBytes), problem, addresses);
    runOnAllThreads(call.memory, id, block, (bytes) => call.allocate(bytes));
  } finally {
    call.end();
  }
}
