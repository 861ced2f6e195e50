/** The CUDA kernels without a GPU: what is launched for each case, what the compiler made of it, what the library needs. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { buildModules } from '../kernels/cuda/modules.js';
import { resourcesFile, resourcesText } from '../kernels/cuda/resources.js';
import { findNvcc } from '../kernels/cuda/toolkit.js';
import { nativeLibrary } from '../kernels/tensorflow/native.js';
import { attentionCases, decodeCases } from './cases.js';
import type { Case } from './cases.js';
import { expectEqual, expectTrue } from './support/expect.js';
import { problemOf } from './support/inputs.js';

interface Plan {
  workspaceBytes: number;
  launches: {
    module: string;
    function: string;
    grid: [number, number, number];
    threads: number;
    sharedBytes: number;
  }[];
}

/** What a launch may ask of a device at most. */
const devices = [
  { capability: 80, multiprocessors: 108, sharedBytes: 163 * 1024 },
  { capability: 90, multiprocessors: 132, sharedBytes: 227 * 1024 },
];
const kernels = ['forward', 'delta', 'dq', 'dkv', 'backward'];

/** Nothing is launched for outputs without elements, nor for the whole backward of a decode, which is no kernel. */
function hasOutputs(c: Case, kernel: string): boolean {
  const { b, hq, hkv, sq, skv, dr } = problemOf(c);
  const [ofQueries, ofKeys] = [b * hq * sq, b * (hkv + dr) * skv];
  if (kernel === 'backward') return c.op === 'mlaAttention' && ofQueries + ofKeys > 0;
  return (kernel === 'dkv' ? ofKeys : ofQueries) > 0;
}

/** Type and precision by their numbers in mla_params.h. */
const types = { float32: '0 0', tf32: '0 1', 'bfloat16 from float32': '0 3', half: '1 0', bfloat16: '2 0' };

/** See plan_text.h. */
function callOf(c: Case, device: { capability: number; multiprocessors: number }): (rest: string) => string {
  const p = problemOf(c);
  const sizes = [p.b, p.hq, p.hkv, p.sq, p.skv, p.dn, p.dr, p.dv];
  const unbounded = 1 << 29;
  const [left, right] = p.window.map((keys) => (keys < 0 ? unbounded : keys));
  const mask = [left, p.causal === 'none' ? right : 0, Number(p.causal === 'top-left')];
  const given = [p.hasQLengths, p.hasKvLengths, c.hasDLse].map(Number);
  const { capability, multiprocessors } = device;
  return (rest) => [capability, multiprocessors, rest, ...sizes, ...mask, ...given].join(' ');
}

const library = nativeLibrary();

describe('cuda', () => {
  if (!library) {
    it.skip("cuda: 'npm run build:native' has not made the native library");
    return;
  }
  const { planOnGpu } = createRequire(import.meta.url)(library) as { planOnGpu: (call: string) => string };

  it('the library needs libc alone', function () {
    const { status, stdout } = spawnSync('readelf', ['-d', library], { encoding: 'utf8' });
    if (status !== 0) this.skip();
    const needed = [...stdout.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map(([, name]) => name);
    const partsOfLibc = ['libc.so.6', 'ld-linux-x86-64.so.2'];
    expectEqual(
      needed.filter((name) => !partsOfLibc.includes(name)),
      [],
      'libraries that are not parts of libc',
    );
  });

  for (const device of devices) {
    describe(`plans for compute capability ${(device.capability / 10).toFixed(1)}`, () => {
      for (const c of [...attentionCases, ...decodeCases]) {
        it(`${c.op}: ${c.name}`, () => {
          const call = callOf(c, device);
          for (const [kernel, kernelName] of kernels.entries()) {
            if (!hasOutputs(c, kernelName)) continue;
            for (const [typeName, type] of Object.entries(types)) {
              const text = planOnGpu(call(`${kernel} ${Number(c.op === 'mlaDecode')} ${type}`));
              const plan = JSON.parse(text) as Plan | null;
              if (!plan) throw new Error(`expected kernels for ${kernelName} in ${typeName}, got none`);
              checkPlan(plan, device.sharedBytes);
            }
          }
        });
      }
    });
  }

  it("decode of 16-bit tensors: the device's own kernel for any number of heads, and its own merge", () => {
    const modules = (device: string, hq: number) => {
      const text = planOnGpu(
        `${device} 0 1 ${types.bfloat16} 1 ${hq} 1 1 4096 512 64 512 ${1 << 29} 0 0 0 0 0`,
      );
      return (JSON.parse(text) as Plan).launches.map(({ module }) => module);
    };
    for (const hq of [1, 16, 96, 128]) {
      expectEqual(modules('90 132', hq), ['sm90/mla_decode', 'sm90/mla_merge'], `${hq} heads`);
      expectEqual(modules('80 108', hq), ['sm80/mla_decode', 'sm80/mla_merge'], `${hq} heads`);
    }
  });

  describe('harness', () => {
    const nvcc = findNvcc();
    if (!nvcc) {
      it.skip("harness: nvcc is not here, 'npm run setup:nvcc' fetches it");
      return;
    }
    it('is built by nvcc alone, lists its cases, and refuses to check none', () => {
      const folder = mkdtempSync(join(tmpdir(), 'tfjs-mla-'));
      try {
        const env = { ...process.env, NVCC: nvcc.file, SM: '90' };
        const script = fileURLToPath(new URL('cuda/build.sh', import.meta.url));
        const built = spawnSync('bash', [script, folder, 'general/mla_delta'], { env, encoding: 'utf8' });
        expectEqual([built.status, built.stderr], [0, ''], 'status and messages of the build');
        const harness = (...options: string[]) =>
          spawnSync(join(folder, 'harness'), options, { encoding: 'utf8' });
        const { stdout } = harness('--list');
        const cases = stdout.trim().split('\n');
        expectTrue(cases.includes('192/128 causal [bfloat16]'), `expected the cases, got ${stdout}`);
        const none = harness('--filter', '192/128 causal', '--filter', '64/64 causal');
        expectEqual(none.status, 2);
        expectTrue(none.stderr.startsWith("harness: no case's name holds every --filter\n"), none.stderr);
      } finally {
        rmSync(folder, { recursive: true });
      }
    }).timeout(600_000);
  });

  describe('resources', () => {
    const nvcc = findNvcc();
    const written = readFileSync(resourcesFile, 'utf8');
    const version = /by nvcc ([\d.]+);/.exec(written)?.[1];
    if (!nvcc || nvcc.version !== version) {
      it.skip(`resources: nvcc ${version} is not here, 'npm run setup:nvcc' fetches it`);
      return;
    }
    it('kernels use what resources.md says', async () => {
      const modules = await buildModules(nvcc);
      const got = resourcesText(nvcc.version, modules, planOnGpu);
      const other = got.split('\n').find((line, index) => line !== written.split('\n')[index]);
      expectTrue(
        got === written,
        `expected the lines of resources.md, got first: ${other}; 'npm run build:native -- --resources' writes it anew`,
      );
    }).timeout(600_000);
  });
});

function checkPlan({ workspaceBytes, launches }: Plan, mostSharedBytes: number): void {
  expectEqual(workspaceBytes % 256, 0, 'what the workspace has beyond a multiple of 256 bytes');
  for (const { function: name, grid, threads, sharedBytes } of launches) {
    const [x, y, z] = grid;
    const isLegal = x > 0 && x < 2 ** 31 && y > 0 && y < 2 ** 16 && z > 0 && z < 2 ** 16;
    expectTrue(isLegal, `${name}: expected a grid that CUDA launches, got ${grid.join(' x ')}`);
    expectTrue(threads > 0 && threads <= 1024, `${name}: expected 1-1024 threads, got ${threads}`);
    expectTrue(
      sharedBytes <= mostSharedBytes,
      `${name}: expected ${mostSharedBytes} bytes, got ${sharedBytes}`,
    );
  }
}
