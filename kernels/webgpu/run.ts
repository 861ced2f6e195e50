/** What each kernel dispatches, step by step. */
import type { WebGPUBackend } from '@tensorflow/tfjs-backend-webgpu';
import { Multiply, getKernel } from '@tensorflow/tfjs-core';
import type { TensorInfo } from '@tensorflow/tfjs-core';
import { shapeOf } from '../../src/core/layout.js';
import type {
  AttentionInputs,
  BackwardInputs,
  CacheAppendInputs,
  DecodeInputs,
  DeltaInputs,
  JoinedBackwardInputs,
} from '../../src/core/kernelInputs.js';
import { MLAAttentionDkv, MLAAttentionDq } from '../../src/core/names.js';
import type { KernelName } from '../../src/core/names.js';
import type { MlaProblem } from '../../src/core/problem.js';
import { capabilitiesOf } from './capabilities.js';
import { dispatchesOf, planMatrixBackward } from './matrix/plans.js';
import { mergeConstants, mergeGrid } from './mergeSplits.js';
import { copyGroups, copyUniforms } from './mlaCacheAppend.js';
import { deltaGroups } from './mlaDelta.js';
import { packGroups, statsSize } from './packStats.js';
import { dispatch } from './pipeline.js';
import { backendName, checkDevicePrecision, planDkv, planDq, planForward } from './plans.js';
import type { NamedShader } from './namedShader.js';
import type { Grid, KernelPlan } from './plans.js';
import { packUniforms } from './problemUniforms.js';
import { copyShader, deltaShader, mergeShader, packShader, sumShader } from './smallShaders.js';
import { flatGrid, sumGrid, sumUniforms } from './sumParts.js';
import type { Parts } from './sumParts.js';

type Tensors = Record<string, TensorInfo>;

function run(
  backend: WebGPUBackend,
  shader: NamedShader,
  tensors: Tensors,
  uniforms: ArrayBuffer,
  grid: Grid,
): void {
  const bound = shader.bindings.map(({ name }) => tensors[name]);
  const floats = bound.map((info) => (isAliasedCast(backend, info) ? materialise(backend, info) : info));
  dispatch(backend, shader, floats, uniforms, grid);
  floats.forEach(({ dataId }, index) => {
    if (dataId !== bound[index].dataId) backend.disposeData(dataId);
  });
}

/** tfjs's cast from int32 to float32 changes the label only: the buffer still holds integers. */
function isAliasedCast(backend: WebGPUBackend, { dataId, dtype }: TensorInfo): boolean {
  return dtype === 'float32' && backend.tensorMap.get(dataId).dtype !== 'float32';
}

function materialise(backend: WebGPUBackend, info: TensorInfo): TensorInfo {
  const one = backend.makeTensorInfo([], 'float32', new Float32Array([1]));
  const multiply = getKernel(Multiply, backendName).kernelFunc;
  const product = multiply({ inputs: { a: info, b: one }, backend, attrs: {} }) as TensorInfo;
  backend.disposeData(one.dataId);
  return product;
}

/** A tensor for a result. What has no numbers has no buffer, and tfjs reads its empty values instead. */
function makeOutput(backend: WebGPUBackend, shape: number[]): TensorInfo {
  return backend.makeTensorInfo(shape, 'float32', shape.includes(0) ? new Float32Array(0) : undefined);
}

/** Scratch lives until the dispatches that use it are submitted; the backend sees to that. */
function withScratch<T>(backend: WebGPUBackend, sizes: number[], use: (...scratch: TensorInfo[]) => T): T {
  const scratch = sizes.map((size) => backend.makeTensorInfo([size], 'float32'));
  try {
    return use(...scratch);
  } finally {
    for (const { dataId } of scratch) backend.disposeData(dataId);
  }
}

/** The inputs of either op under the names that the shaders bind. */
function operandTensors(inputs: AttentionInputs | DecodeInputs): Tensors {
  if ('qLatent' in inputs) {
    const { qLatent, qRope, cKv, kRope, kvLengths } = inputs;
    return { q: qLatent, q_rope: qRope, k: cKv, k_rope: kRope, kv_lengths: kvLengths };
  }
  const { q, k, v, kRope, qLengths, kvLengths } = inputs;
  return { q, k, v, k_rope: kRope, q_lengths: qLengths, kv_lengths: kvLengths };
}

/** MLAAttention and MLADecode → out, lse. */
export function runForward(
  kernel: KernelName,
  problem: MlaProblem,
  inputs: AttentionInputs | DecodeInputs,
  backend: WebGPUBackend,
): TensorInfo[] {
  checkDevicePrecision(kernel, problem);
  const { b, hq, sq, dv, layout } = problem;
  const plan = planForward(kernel, problem, capabilitiesOf(backend.device));
  const out = makeOutput(backend, shapeOf({ b, s: sq, h: hq, d: dv }, layout));
  const lse = makeOutput(backend, [b, hq, sq]);
  const rows = b * hq * sq;
  if (rows * dv === 0) return [out, lse];

  const { main, cut, grid } = plan;
  const uniforms = packUniforms(problem, cut);
  withOperands(backend, plan, operandTensors(inputs), uniforms, (tensors) => {
    if (cut.splits === 1) {
      run(backend, main, { ...tensors, out, lse }, uniforms, grid);
      return;
    }
    const numbers = cut.splits * rows * dv;
    withScratch(
      backend,
      [cut.hasHalfParts ? numbers / 2 : numbers, cut.splits * rows],
      (outParts, lseParts) => {
        run(backend, main, { ...tensors, out: outParts, lse: lseParts }, uniforms, grid);
        const parts = { out_parts: outParts, lse_parts: lseParts, out, lse };
        run(backend, mergeShader(problem, cut), parts, uniforms, mergeGrid(rows, mergeConstants(dv, cut)));
      },
    );
  });
  return [out, lse];
}

/** Adds to the tensors what runs before the plan's main shader. */
function withOperands(
  backend: WebGPUBackend,
  { before, scratch }: KernelPlan,
  tensors: Tensors,
  uniforms: ArrayBuffer,
  use: (tensors: Tensors) => void,
): void {
  const names = Object.keys(scratch);
  withScratch(backend, Object.values(scratch), (...filled) => {
    const all = { ...tensors, ...Object.fromEntries(names.map((name, index) => [name, filled[index]])) };
    for (const { shader, grid } of before) run(backend, shader, all, uniforms, grid);
    use(all);
  });
}

/** MLADelta → delta. */
export function runDelta(
  problem: MlaProblem,
  { out, dOut, dLse }: DeltaInputs,
  backend: WebGPUBackend,
): TensorInfo {
  const { b, hq, sq } = problem;
  const delta = makeOutput(backend, [b, hq, sq]);
  const tensors = { out, d_out: dOut, d_lse: dLse, delta };
  const uniforms = packUniforms(problem, { tiles: 0, splits: 1 });
  run(backend, deltaShader(problem), tensors, uniforms, flatGrid(deltaGroups(b * hq * sq)));
  return delta;
}

/** The inputs of a backward kernel with lse, delta and lengths in one buffer, and `room` numbers behind them. */
function withStats(
  backend: WebGPUBackend,
  problem: MlaProblem,
  { hasScales = false }: KernelPlan,
  inputs: (AttentionInputs | DecodeInputs) & BackwardInputs,
  room: number,
  use: (tensors: Tensors) => void,
): void {
  withScratch(backend, [statsSize(problem, hasScales) + room], (stats) => {
    const { lse, delta, dOut } = inputs;
    const tensors = { ...operandTensors(inputs), lse, delta, d_out: dOut, stats };
    const uniforms = packUniforms(problem, { tiles: 0, splits: 1 });
    run(backend, packShader(problem, hasScales), tensors, uniforms, flatGrid(packGroups(problem)));
    use(tensors);
  });
}

function sumParts(backend: WebGPUBackend, parts: TensorInfo, out: TensorInfo, which: Parts): void {
  run(backend, sumShader, { parts, out }, sumUniforms(which), sumGrid(which));
}

/** MLAAttentionDq → dQ, and MLADecodeDq → dQLatent, dQRope. */
export function runDq(
  kernel: KernelName,
  problem: MlaProblem,
  inputs: (AttentionInputs | DecodeInputs) & BackwardInputs,
  backend: WebGPUBackend,
): TensorInfo[] {
  const targets: Tensors =
    'qLatent' in inputs ? { d_q: inputs.qLatent, d_q_rope: inputs.qRope } : { d_q: inputs.q };
  const plan = planDq(kernel, problem, capabilitiesOf(backend.device));
  return runSplits(backend, problem, plan, inputs, targets);
}

/**
 * Gradients of `targets`, by the names that they are bound by. Splits write a share each, one behind the other, and
 * sumParts.ts adds them.
 */
function runSplits(
  backend: WebGPUBackend,
  problem: MlaProblem,
  plan: KernelPlan,
  inputs: (AttentionInputs | DecodeInputs) & BackwardInputs,
  targets: Tensors,
): TensorInfo[] {
  const { main, cut, grid } = plan;
  const { splits } = cut;
  const outputs = Object.entries(targets).map(([name, { shape }]) => ({
    name,
    info: makeOutput(backend, shape),
    size: shape.reduce((size, dim) => size * dim, 1),
  }));
  const results = outputs.map(({ info }) => info);
  if (outputs[0].size === 0) return results;

  const uniforms = packUniforms(problem, cut);
  withStats(backend, problem, plan, inputs, 0, (given) => {
    withOperands(backend, plan, given, uniforms, (tensors) => {
      if (splits === 1) {
        const written = Object.fromEntries(outputs.map(({ name, info }) => [name, info]));
        run(backend, main, { ...tensors, ...written }, uniforms, grid);
        return;
      }
      withScratch(
        backend,
        outputs.map(({ size }) => size * splits),
        (...parts) => {
          const written = Object.fromEntries(outputs.map(({ name }, index) => [name, parts[index]]));
          run(backend, main, { ...tensors, ...written }, uniforms, grid);
          outputs.forEach(({ info, size }, index) => {
            if (size > 0) sumParts(backend, parts[index], info, { start: 0, size, parts: splits });
          });
        },
      );
    });
  });
  return results;
}

/** MLAAttentionDkv → dK, dV, dKRope. */
export function runAttentionDkv(
  kernel: KernelName,
  problem: MlaProblem,
  inputs: AttentionInputs & BackwardInputs,
  backend: WebGPUBackend,
): TensorInfo[] {
  const { b, hkv, skv, dr } = problem;
  const dK = makeOutput(backend, inputs.k.shape);
  const dV = makeOutput(backend, inputs.v.shape);
  const dKRope = makeOutput(backend, inputs.kRope.shape);
  const plan = planDkv(kernel, problem, capabilitiesOf(backend.device));
  const { main, cut, grid } = plan;
  const uniforms = packUniforms(problem, cut);
  const share = b * skv * dr;
  // a stock device has no binding left for the heads' shares of dKRope: there they go behind the statistics
  const isBehind = plan.lane !== 'T3';
  withStats(backend, problem, plan, inputs, isBehind ? hkv * share : 0, (given) => {
    withOperands(backend, plan, given, uniforms, (tensors) => {
      withScratch(backend, isBehind || share === 0 ? [] : [hkv * share], (apart) => {
        run(backend, main, { ...tensors, d_k: dK, d_v: dV, d_k_rope_shares: apart }, uniforms, grid);
        const start = isBehind ? statsSize(problem, plan.hasScales ?? false) : 0;
        if (share > 0) {
          sumParts(backend, isBehind ? tensors.stats : apart, dKRope, { start, size: share, parts: hkv });
        }
      });
    });
  });
  return [dK, dV, dKRope];
}

/** MLAAttentionBackward → dQ, dK, dV, dKRope. */
export function runAttentionBackward(
  problem: MlaProblem,
  inputs: AttentionInputs & JoinedBackwardInputs,
  backend: WebGPUBackend,
): TensorInfo[] {
  const delta = runDelta(problem, inputs, backend);
  const gradients = runGradients(problem, { ...inputs, delta }, backend);
  backend.disposeData(delta.dataId);
  return gradients;
}

/** dQ from the dS that …Dkv keeps, some heads at a time. */
function runGradients(
  problem: MlaProblem,
  inputs: AttentionInputs & BackwardInputs,
  backend: WebGPUBackend,
): TensorInfo[] {
  const joined = planMatrixBackward(problem, capabilitiesOf(backend.device));
  if (!joined) {
    const dQ = runDq(MLAAttentionDq, problem, inputs, backend);
    return [...dQ, ...runAttentionDkv(MLAAttentionDkv, problem, inputs, backend)];
  }
  const { plan, dq, heads, dsSize, keyTiles, rowTiles } = joined;
  const { b, hkv, skv, dr } = problem;
  const { q, k, v, kRope } = inputs;
  const [dQ, dK, dV, dKRope] = [q, k, v, kRope].map(({ shape }) => makeOutput(backend, shape));
  const size = b * skv * dr;
  withStats(backend, problem, plan, inputs, 0, (given) => {
    withOperands(backend, plan, given, packUniforms(problem, plan.cut), (tensors) => {
      withScratch(backend, size > 0 ? [dsSize, hkv * size] : [dsSize], (ds, shares) => {
        const all = { ...tensors, ds, d_q: dQ, d_k: dK, d_v: dV, d_k_rope_shares: shares };
        for (const { first, count, grid } of dispatchesOf(problem, heads)) {
          const cut = { ...plan.cut, heads: { first, count } };
          run(backend, plan.main, all, packUniforms(problem, { ...cut, tiles: keyTiles }), grid(keyTiles));
          run(backend, dq, all, packUniforms(problem, { ...cut, tiles: rowTiles }), grid(rowTiles));
        }
        if (size > 0) sumParts(backend, shares, dKRope, { start: 0, size, parts: hkv });
      });
    });
  });
  return [dQ, dK, dV, dKRope];
}

/** MLADecodeDkv → dCkv, dKRope. */
export function runDecodeDkv(
  kernel: KernelName,
  problem: MlaProblem,
  inputs: DecodeInputs & BackwardInputs,
  backend: WebGPUBackend,
): TensorInfo[] {
  const plan = planDkv(kernel, problem, capabilitiesOf(backend.device));
  return runSplits(backend, problem, plan, inputs, { d_k: inputs.cKv, d_k_rope: inputs.kRope });
}

/** MLACacheAppend → nothing. */
export function runCacheAppend(inputs: CacheAppendInputs, backend: WebGPUBackend): TensorInfo[] {
  const { cKv, kRope, newCkv, newKRope, lengths } = inputs;
  for (const [cache, rows] of [
    [cKv, newCkv],
    [kRope, newKRope],
  ]) {
    const [batch, n] = rows.shape;
    const [, capacity, columns] = cache.shape;
    const shader = copyShader(cache.dtype === 'int32' ? 'float16' : 'float32');
    const uniforms = copyUniforms(batch, n, columns, capacity);
    run(backend, shader, { rows, lengths, cache }, uniforms, flatGrid(copyGroups(batch * n * columns)));
  }
  return [];
}
