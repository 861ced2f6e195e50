/**
 * Subgroup matrices, and subgroups as large as they want, in plain WGSL: so the shaders of lane T3 run, and are compared with the
 * reference, where no device has them. Products of halves are exact; sums are rounded to float32, which hardware may do
 * otherwise.
 *
 * Of a result a thread has a part of one row, and of a left matrix that row; of a right one it reads what it needs where
 * it is multiplied. So no thread needs what another has, and what a thread has fits the stack of a software GPU.
 */
import { rememberAdapter } from '../../kernels/webgpu/capabilities.js';
import type { MatrixShape } from '../../kernels/webgpu/capabilities.js';
import { installDevice } from '../../src/device/installDevice.js';

/** Makes tfjs's webgpu backend one whose device says that it has matrices of a shape, and subgroups of these sizes. */
export async function installSoftwareMatrices(
  { m, n, k, operand, lanes }: MatrixShape,
  { min, max } = { min: lanes, max: lanes },
): Promise<void> {
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) throw new Error('installSoftwareMatrices: expected an adapter, got none');
  const { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredFeatures: ['subgroups' as GPUFeatureName],
    requiredLimits: { maxComputeWorkgroupStorageSize, maxComputeInvocationsPerWorkgroup },
  });
  const features = [
    ...device.features,
    ...(operand === 'f16' ? ['shader-f16'] : []),
    ...(min < max ? ['subgroup-size-control'] : []),
    'chromium-experimental-subgroup-matrix',
  ];
  const createShaderModule = device.createShaderModule.bind(device);
  Object.defineProperties(device, {
    features: { value: new Set(features) },
    createShaderModule: {
      value: (descriptor: GPUShaderModuleDescriptor) =>
        createShaderModule({ ...descriptor, code: withoutMatrices(descriptor.code) }),
    },
  });
  rememberAdapter(device, {
    subgroupMinSize: min,
    subgroupMaxSize: max,
    subgroupMatrixConfigs: [{ M: m, N: n, K: k, componentType: operand, resultComponentType: 'f32' }],
  });
  await installDevice({ device });
}

/** The WGSL of a shader without what takes hardware. */
export function withoutMatrices(wgsl: string): string {
  const left = /alias Left = subgroup_matrix_left<(\w+), (\d+), (\d+)>/.exec(wgsl);
  const right = /alias Right = subgroup_matrix_right<\w+, (\d+), \d+>/.exec(wgsl);
  if (!left || !right) return wgsl;
  const lanes = Number(/@subgroup_size\((\d+)\)/.exec(wgsl)?.[1] ?? 32);
  const definitions = matrices(left[1], Number(left[3]), Number(right[1]), Number(left[2]), lanes);
  const main = wgsl
    .replace(/enable \w+;|diagnostic.*;|alias (Left|Right|Sums) = .*;| @subgroup_size\(\d+\)/g, '')
    .replace(
      /,\s*@builtin\(subgroup_id\) subgroup: u32\) \{/,
      `) {\n  thread = tid;\n  let subgroup = tid / ${lanes}u;`,
    )
    .replace(/subgroupMatrixLoad<(\w+), (\w+)>\(&arena, /g, 'load_$1_$2(')
    .replace(/subgroupMatrixStore<row_major>\(&arena, /g, 'store_sums(')
    .replace(/subgroupMatrixMultiplyAccumulate\(/g, 'multiply(')
    // subgroups of a software GPU have four threads; and what waits for all of them must be reached by all of them
    .replace('if (subgroup < SOFT_SUBGROUPS) {', '{')
    .replace('if (subgroupAny(reference == LEAST)) {', '{')
    .replace(/subgroupShuffleXor\((\w+), (4|8|16)u\)/g, 'shuffle_far($1, $2u)');
  return `enable subgroups;\n${main}\n${definitions}`;
}

function matrices(operand: string, rows: number, columns: number, depth: number, lanes: number): string {
  const threads = lanes / rows;
  const own = columns / threads;
  const element =
    operand === 'f16'
      ? 'unpack2x16float(arena[at + c / 8u][c % 8u / 2u])[c % 2u]'
      : 'bitcast<f32>(arena[at + c / 4u][c % 4u])';
  const [row, column] = [`thread % ${lanes}u / ${threads}u`, `thread % ${threads}u * ${own}u`];
  return `
var<private> thread: u32;
struct Left { e: array<f32, ${depth}> }
struct Right { first: u32, stride: u32, is_row_major: bool }
struct Sums { e: array<f32, ${own}> }

fn element(first: u32, stride: u32, is_row_major: bool, r: u32, c: u32) -> f32 {
  let at = first + select(c, r, is_row_major) * stride;
  return element_of_row(at, select(r, c, is_row_major));
}

fn element_of_row(at: u32, c: u32) -> f32 { return ${element}; }

fn load_left(first: u32, stride: u32, is_row_major: bool) -> Left {
  var matrix: Left;
  for (var k = 0u; k < ${depth}u; k++) { matrix.e[k] = element(first, stride, is_row_major, ${row}, k); }
  return matrix;
}

fn load_Left_row_major(first: u32, stride: u32) -> Left { return load_left(first, stride, true); }
fn load_Left_col_major(first: u32, stride: u32) -> Left { return load_left(first, stride, false); }
fn load_Right_row_major(first: u32, stride: u32) -> Right { return Right(first, stride, true); }
fn load_Right_col_major(first: u32, stride: u32) -> Right { return Right(first, stride, false); }

fn multiply(left: Left, right: Right, sums: Sums) -> Sums {
  var result = sums;
  for (var k = 0u; k < ${depth}u; k++) {
    for (var c = 0u; c < ${own}u; c++) {
      let x = element(right.first, right.stride, right.is_row_major, k, ${column} + c);
      result.e[c] = fma(left.e[k], x, result.e[c]);
    }
  }
  return result;
}

fn store_sums(first: u32, sums: Sums, stride: u32) {
  for (var i = 0u; i < ${own}u; i++) {
    let c = ${column} + i;
    arena[first + ${row} * stride + c / 4u][c % 4u] = bitcast<u32>(sums.e[i]);
  }
}

var<workgroup> shuffled: array<f32, THREADS>;
fn shuffle_far(value: f32, mask: u32) -> f32 {
  workgroupBarrier();
  shuffled[thread] = value;
  workgroupBarrier();
  return shuffled[thread ^ mask];
}
`;
}
