/** Tiles: the byte formula, the bindings, and every candidate's WGSL through Dawn's compiler. */
import type { LaneConstants } from '../kernels/webgpu/capabilities.js';
import { forwardConstants, forwardWork, mlaAttentionWgsl } from '../kernels/webgpu/mlaAttention.js';
import { dkvWork, mlaAttentionDkvWgsl } from '../kernels/webgpu/mlaAttentionDkv.js';
import { dqWork, mlaAttentionDqWgsl } from '../kernels/webgpu/mlaAttentionDq.js';
import { operandConstants } from '../kernels/webgpu/operands.js';
import {
  copyShader,
  deltaShader,
  mergeShader,
  packShader,
  sumShader,
} from '../kernels/webgpu/smallShaders.js';
import { allTiles, chooseTile, nameOf } from '../kernels/webgpu/tiles.js';
import type { Tile, TileWork } from '../kernels/webgpu/tiles.js';
import { openNullDawn } from '../src/device/node.js';
import type { MlaProblem } from '../src/core/problem.js';
import { attentionCases, decodeCases } from './cases.js';
import { declaredBytes } from './support/declaredBytes.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { problemOf } from './support/inputs.js';

const portable = {
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
};
const stockBindings = 8;

interface TileKernel {
  name: string;
  work: (problem: MlaProblem, lane?: LaneConstants) => TileWork;
  wgsl: (problem: MlaProblem, tile: Tile) => string;
}

const kernels: TileKernel[] = [
  {
    name: 'forward',
    work: forwardWork,
    wgsl: (problem, tile) => mlaAttentionWgsl(forwardConstants(problem), tile),
  },
  {
    name: 'Dq',
    work: dqWork,
    wgsl: (problem, tile) => mlaAttentionDqWgsl(operandConstants(problem), tile),
  },
  {
    name: 'Dkv',
    work: dkvWork,
    wgsl: (problem, tile) => mlaAttentionDkvWgsl(operandConstants(problem), tile),
  },
];

/** T1, T1s where a subgroup holds a part of a row and where it holds all of it, T2. */
const lanes: LaneConstants[] = [
  { SUBGROUP: 1, HALVES: 0 },
  { SUBGROUP: 4, HALVES: 0 },
  { SUBGROUP: 32, HALVES: 0 },
  { SUBGROUP: 8, HALVES: 1 },
];

function laneName({ SUBGROUP, HALVES }: LaneConstants): string {
  return `SUBGROUP=${SUBGROUP} HALVES=${HALVES}`;
}

/** Each sort of shader once: vec4 and scalar rows, rope inside, apart and absent, lengths and groups, decode. */
const names = [
  'deepseek',
  'deepseek, rope apart',
  'odd columns',
  'grouped heads 8 on 2',
  'padded batch',
  'wide',
];
const cases = [...attentionCases.filter(({ name }) => names.includes(name)), ...decodeCases];
const plain = cases.map((c) => ({ name: `${c.op} ${c.name}`, problem: problemOf(c) }));
/** Those of decode again, with a packed cache. */
const packed = plain
  .filter(({ problem: { op, dn, dr } }) => op === 'mlaDecode' && dn % 2 === 0 && dr % 2 === 0)
  .map(({ name, problem }) => ({
    name: `${name}, packed`,
    problem: { ...problem, cacheFormat: 'float16' as const },
  }));

describe('tiles', () => {
  for (const { name, work, wgsl } of kernels) {
    // a packed cache has no gradient
    const problems = name === 'Dkv' ? plain : [...plain, ...packed];

    it(`${name}: the byte formula is what the shader declares`, () => {
      for (const { name: caseName, problem } of problems) {
        for (const lane of lanes) {
          for (const tile of allTiles(work(problem, lane))) {
            const name = `${caseName}, ${laneName(lane)}, ${nameOf(tile)}`;
            expectEqual(declaredBytes(wgsl(problem, tile)), tile.bytes, name);
          }
        }
      }
    });

    it(`${name}: some tile fits 16 KiB and 256 threads, whatever the problem`, () => {
      for (const { problem } of problems) {
        for (const lane of lanes) {
          const { tile, passedOver } = chooseTile(work(problem, lane), portable);
          expectTrue(tile.bytes <= portable.maxComputeWorkgroupStorageSize, nameOf(tile));
          expectTrue(passedOver.length > 0, 'nothing passed over');
        }
      }
    });

    const compiled = new Set<string>();
    for (const lane of lanes) {
      it(`${name}, ${laneName(lane)}: every candidate compiles`, async function () {
        this.timeout(300_000);
        // the installed WebGPU types are older than subgroups
        const requiredFeatures = ['subgroups' as string as GPUFeatureName].slice(lane.SUBGROUP > 1 ? 0 : 1);
        const device = await (await openNullDawn()).requestDevice({ requiredFeatures });
        for (const { name: caseName, problem } of problems) {
          for (const tile of allTiles(work(problem, lane))) {
            const code = wgsl(problem, tile);
            if (!compiled.has(code)) await expectToCompile(device, code, `${caseName}, ${nameOf(tile)}`);
            compiled.add(code);
          }
        }
        device.destroy();
      });
    }
  }

  it('says of each candidate why it was passed over, and throws when none fits', () => {
    const [{ problem }] = plain;
    const { tile, passedOver } = chooseTile(forwardWork(problem), portable);
    const reasons = passedOver.map(({ reason }) => reason);
    const isSaid = reasons.every((reason) => /bytes of workgroup memory|registers|cost|threads/.test(reason));
    expectTrue(isSaid, reasons.join('; '));
    expectTrue(!passedOver.some(({ candidate }) => candidate === nameOf(tile)), 'chosen and passed over');
    let message = '';
    try {
      chooseTile(forwardWork(problem), { ...portable, maxComputeWorkgroupStorageSize: 1024 });
    } catch (error) {
      ({ message } = error as Error);
    }
    expectTrue(message.startsWith('no tile fits this device (LEFT='), message);
  });

  it('takes the tile that is preferred, where it is legal', () => {
    const work = forwardWork(plain[0].problem);
    const { tile, passedOver, candidates } = chooseTile(work, portable);
    expectEqual(candidates[0], nameOf(tile), 'cheapest');
    const last = candidates[candidates.length - 1];
    expectEqual(nameOf(chooseTile(work, portable, last).tile), last, 'preferred');
    const illegal = passedOver.find(({ reason }) => !reason.startsWith('cost'))?.candidate;
    expectEqual(nameOf(chooseTile(work, portable, illegal).tile), nameOf(tile), 'preferred, but illegal');
  });

  it('no shader has more bindings than a stock device', () => {
    for (const { problem } of [...plain, ...packed]) {
      const tiled = kernels.map(({ work, wgsl }) => wgsl(problem, allTiles(work(problem))[0]));
      const packers = [false, true].map((hasScales) => packShader(problem, hasScales));
      const copy = copyShader(problem.cacheFormat);
      const others = [
        mergeShader(problem, { tiles: 1, splits: 2 }),
        mergeShader(problem, { tiles: 1, splits: 99, hasHalfParts: problem.dv % 4 === 0 }),
        ...packers,
        deltaShader(problem),
        sumShader,
        copy,
      ];
      for (const wgsl of [...tiled, ...others.map((shader) => shader.wgsl())]) {
        const storage = [...wgsl.matchAll(/var<storage/g)].length;
        expectTrue(storage <= stockBindings, `${storage} storage buffers`);
      }
    }
  });
});

async function expectToCompile(device: GPUDevice, code: string, name: string): Promise<void> {
  device.pushErrorScope('validation');
  const module = device.createShaderModule({ code });
  const [error, { messages }] = await Promise.all([device.popErrorScope(), module.getCompilationInfo()]);
  const errors = messages
    .filter(({ type }) => type === 'error')
    .map(({ lineNum, message }) => `${lineNum}: ${message}`);
  if (error || errors.length > 0) throw new Error(`${name}: ${errors.join('; ') || error?.message}`);
}
