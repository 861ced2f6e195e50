/**
 * Lane T3 without a GPU: the byte formulas, and every candidate's WGSL through Dawn's compiler, which checks uniformity
 * too. float16.test.ts runs them on hardware.
 */
import { knownMatrices } from '../kernels/webgpu/capabilities.js';
import { forwardConstants } from '../kernels/webgpu/mlaAttention.js';
import { layOutBackward } from '../kernels/webgpu/matrix/backwardTile.js';
import { backwardWork } from '../kernels/webgpu/matrix/backward.js';
import { decodeBackwardConstants, decodeBackwardTile } from '../kernels/webgpu/matrix/decodeBackward.js';
import { decodeCandidates, layOutDecode, nameOfDecode } from '../kernels/webgpu/matrix/decodeTile.js';
import { dqOfDsWgsl, layOutDqOfDs } from '../kernels/webgpu/matrix/dqOfDs.js';
import { nameOfForm, sixteen } from '../kernels/webgpu/matrix/form.js';
import type { MatrixForm } from '../kernels/webgpu/matrix/form.js';
import { candidatesOf, layOutForward, nameOfForward } from '../kernels/webgpu/matrix/forwardTile.js';
import { gradientMaximaWgsl } from '../kernels/webgpu/matrix/gradientScales.js';
import { matrixAttentionWgsl, matrixForwardWork } from '../kernels/webgpu/matrix/mlaAttention.js';
import { matrixDkvWgsl } from '../kernels/webgpu/matrix/mlaAttentionDkv.js';
import { matrixDqWgsl } from '../kernels/webgpu/matrix/mlaAttentionDq.js';
import { matrixDecodeWgsl, matrixDecodeWork } from '../kernels/webgpu/matrix/mlaDecode.js';
import { matrixDecodeDkvWgsl } from '../kernels/webgpu/matrix/mlaDecodeDkv.js';
import { matrixDecodeDqWgsl } from '../kernels/webgpu/matrix/mlaDecodeDq.js';
import { halvesShader } from '../kernels/webgpu/matrix/plans.js';
import { operandMaximaWgsl } from '../kernels/webgpu/matrix/operandScales.js';
import { operandConstants } from '../kernels/webgpu/operands.js';
import { openNullDawn } from '../src/device/node.js';
import type { MlaProblem } from '../src/core/problem.js';
import { attentionCases, decodeCases } from './cases.js';
import { declaredBytes } from './support/declaredBytes.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { problemOf } from './support/inputs.js';

interface Compiled {
  name: string;
  wgsl: string;
  /** what its formulas say: bytes, and units of its arena */
  layout?: { bytes: number; arena: number };
}

/** Each sort of shader once: vec4 and scalar rows, rope inside, apart and absent, lengths and groups, decode. */
const names = [
  'deepseek',
  'deepseek, rope apart',
  'minicpm3, sbhd',
  'odd columns',
  'the whole key is shared',
  'grouped heads 8 on 2',
  'padded batch',
  'wide',
];
const attention = attentionCases.filter(({ name }) => names.includes(name));

/** The forward on every shape, with halves whole and split, in subgroups of the device's size and of the shader's. */
const forms = knownMatrices.flatMap((shape): MatrixForm[] => {
  const parts = shape.operand === 'f16' ? ([1, 2] as const) : ([1] as const);
  return parts.flatMap((n) => [false, true].map((setsLanes) => ({ ...shape, parts: n, setsLanes })));
});

function forwardsOf(problem: MlaProblem, form: MatrixForm): (Compiled & { layout: { bytes: number } })[] {
  return candidatesOf(form).map((candidate) => {
    const layout = layOutForward(candidate, matrixForwardWork(problem, form), form);
    const wgsl = matrixAttentionWgsl(forwardConstants(problem), layout);
    return { name: `${nameOfForm(form)}, ${nameOfForward(candidate)}`, wgsl, layout };
  });
}

function ofAttention(problem: MlaProblem): Compiled[] {
  return [
    ...forms.flatMap((form) => forwardsOf(problem, form)),
    { name: 'packHalves, split', wgsl: halvesShader(problem, false, 2).wgsl() },
    { name: 'operandMaxima', wgsl: operandMaximaWgsl(forwardConstants(problem)) },
    ...[false, true].map((isBackward) => ({
      name: 'packHalves',
      wgsl: halvesShader(problem, isBackward).wgsl(),
    })),
    ...backwardsOf(problem),
  ];
}

function backwardsOf(problem: MlaProblem): Compiled[] {
  const operands = operandConstants(problem);
  const ofKeys = layOutBackward(backwardWork(operands, true));
  return [
    { name: 'gradientMaxima', wgsl: gradientMaximaWgsl(operands) },
    { name: 'Dq', wgsl: matrixDqWgsl(operands), layout: layOutBackward(backwardWork(operands, false)) },
    ...[0, 1].map((KEEPS_DS) => ({
      name: `Dkv, KEEPS_DS=${KEEPS_DS}`,
      wgsl: matrixDkvWgsl({ ...operands, KEEPS_DS }),
      layout: ofKeys,
    })),
    { name: 'dqOfDs', wgsl: dqOfDsWgsl(operands), layout: layOutDqOfDs(operands) },
  ];
}

function ofDecode(problem: MlaProblem): Compiled[] {
  const { dn, dr } = problem;
  const formats = dn % 8 === 0 && dr % 8 === 0 ? (['float32', 'float16'] as const) : (['float32'] as const);
  return formats.flatMap((cacheFormat) => {
    const given = { ...problem, cacheFormat };
    const record = {
      ...forwardConstants(given),
      HALF_PARTS: cacheFormat === 'float16' && problem.dv % 4 === 0 ? 1 : 0,
    };
    const forwards = decodeCandidates.map((candidate) => {
      const layout = layOutDecode(candidate, matrixDecodeWork(problem));
      return { name: nameOfDecode(candidate), wgsl: matrixDecodeWgsl(record, layout), layout };
    });
    const [dq, dkv] = [false, true].map((isDkv) => decodeBackwardConstants(given, isDkv));
    const all: Compiled[] = [
      ...forwards,
      { name: 'packHalves', wgsl: halvesShader(given, true).wgsl() },
      { name: 'gradientMaxima', wgsl: gradientMaximaWgsl(dq) },
      { name: 'Dq', wgsl: matrixDecodeDqWgsl(dq), layout: decodeBackwardTile(dq) },
      { name: 'Dkv', wgsl: matrixDecodeDkvWgsl(dkv), layout: decodeBackwardTile(dkv) },
    ];
    return all.map((compiled) => ({ ...compiled, name: `${compiled.name}, cache of ${cacheFormat}` }));
  });
}

const shaders: Compiled[] = [
  ...attention.map((c) => ({ name: c.name, all: ofAttention(problemOf(c)) })),
  ...decodeCases.map((c) => ({ name: c.name, all: ofDecode(problemOf(c)) })),
].flatMap(({ name, all }) => all.map((shader) => ({ ...shader, name: `${name}: ${shader.name}` })));

/** Units that each round of an epilogue takes: its rows times their stride. */
function epilogueUnits(wgsl: string): number[] {
  const rounds = wgsl.matchAll(/at < (\d+)u; at \+= THREADS[\s\S]*?arena\[at \* (\d+)u \+ c\]/g);
  return [...rounds].map(([, rows, stride]) => Number(rows) * Number(stride));
}

describe('matrix tiles', () => {
  it('the byte formula is what each shader declares', () => {
    for (const { name, wgsl, layout } of shaders) {
      if (layout) expectEqual(declaredBytes(wgsl), layout.bytes, name);
    }
  });

  it('some tile of 192/128 and of 512+64 fits 48 KiB', () => {
    const [deepseek] = attention.filter(({ name }) => name === 'deepseek');
    for (const form of forms) {
      // where matrices are smaller there is less memory
      const most = form.m === sixteen.m || form.parts === 2 ? 49152 : 32768;
      const bytes = forwardsOf(problemOf(deepseek), form).map(({ layout }) => layout.bytes);
      expectTrue(Math.min(...bytes) <= most, `${nameOfForm(form)}: ${bytes.join(', ')}`);
    }
    const all = backwardsOf(problemOf(deepseek)).flatMap(({ layout }) => (layout ? [layout.bytes] : []));
    expectTrue(
      all.every((bytes) => bytes <= 49152),
      `bytes: ${all.join(', ')}`,
    );
    const [latent] = decodeCases.filter(({ r, rr }) => r === 512 && rr === 64);
    const ofLatent = ofDecode(problemOf(latent)).flatMap(({ layout }) => (layout ? [layout.bytes] : []));
    expectTrue(
      ofLatent.every((bytes) => bytes <= 49152),
      `bytes: ${ofLatent.join(', ')}`,
    );
  });

  it('every round of an epilogue fits the arena: a matrix store past its end would be redirected in silence', () => {
    for (const { name, wgsl, layout } of shaders) {
      if (!layout) continue;
      const units = epilogueUnits(wgsl);
      expectTrue(units.length > 0 && units.every((n) => n <= layout.arena), `${name}: ${units.join(', ')}`);
    }
  });

  it('declares sums with a constructor: without one they keep their value from one turn of a loop to the next', () => {
    for (const { name, wgsl } of shaders) expectTrue(!/var \w+\s*:\s*Sums\s*;/.test(wgsl), name);
  });

  it('loads what all subgroups read at constant offsets', () => {
    for (const { name, wgsl } of shaders) {
      const loads = [...wgsl.matchAll(/subgroupMatrixLoad<Right, \w+>\(&arena, ([^,]*),/g)];
      for (const [, offset] of loads) expectTrue(/^\d+u$/.test(offset), `${name}: ${offset}`);
    }
  });

  it('every candidate compiles', async function () {
    this.timeout(300_000);
    const features = [
      ...['shader-f16', 'subgroups', 'subgroup-size-control', 'chromium-experimental-subgroup-matrix'],
    ];
    const device = await (
      await openNullDawn()
    ).requestDevice({
      requiredFeatures: features as GPUFeatureName[],
    });
    for (const { name, wgsl: code } of shaders) {
      device.pushErrorScope('validation');
      const module = device.createShaderModule({ code });
      const [error, { messages }] = await Promise.all([device.popErrorScope(), module.getCompilationInfo()]);
      const errors = messages
        .filter(({ type }) => type === 'error')
        .map(({ lineNum, message }) => `${lineNum}: ${message}`);
      if (error || errors.length > 0) throw new Error(`${name}: ${errors.join('; ') || error?.message}`);
    }
    device.destroy();
  });
});
