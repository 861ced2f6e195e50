/** Which tfjs-node is loaded, by imitations of installed packages: their files are looked at, nothing of them is run. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { chooseTfjsNode } from '../src/device/chooseTfjsNode.js';
import { prepareProcess } from '../src/device/loadTfjsNode.js';
import { runPath } from '../src/device/runPath.js';
import { areGpusHidden, lookAt, opens, tfjsNodeNames } from '../src/device/tfjsNode.js';
import type { TfjsNode } from '../src/device/tfjsNode.js';
import { expectEqual, expectThrows } from './support/expect.js';

const { gpu, cpu } = tfjsNodeNames;
const variables = ['CUDA_VISIBLE_DEVICES', 'TF_FORCE_GPU_ALLOW_GROWTH', 'TF_CPP_MIN_LOG_LEVEL'] as const;
const noDriver = 'libcuda.so.1 does not open: install the NVIDIA driver of your card';

describe('tfjsNode', () => {
  const outside = variables.map((name) => process.env[name]);
  let folder: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tfjs-mla-node-'));
    for (const name of variables) Reflect.deleteProperty(process.env, name);
  });

  afterEach(() => {
    rmSync(folder, { recursive: true });
    variables.forEach((name, index) => {
      const value = outside[index];
      if (value === undefined) Reflect.deleteProperty(process.env, name);
      else process.env[name] = value;
    });
  });

  describe('what its files tell', () => {
    before(function () {
      if (process.platform !== 'linux' || process.arch !== 'x64') this.skip();
    });

    it('names what is missing', () => {
      write('package.json', JSON.stringify({ binary: { napi_versions: [3, 8] } }));
      expectEqual(lookAt(cpu, folder).missing, 'libtensorflow');
      write('deps/lib/libtensorflow.so', '');
      expectEqual(lookAt(cpu, folder).missing, 'binding');
      write('lib/napi-v8/tfjs_binding.node', '');
      const { missing, isCuda12, noGpu } = lookAt(cpu, folder);
      expectEqual([missing, isCuda12, noGpu], [undefined, false, 'its TensorFlow is built for CPUs']);
    });

    it('knows a build for CUDA 12 by where it looks for the libraries', () => {
      write('package.json', JSON.stringify({ binary: { napi_versions: [3, 8] } }));
      write('lib/napi-v8/tfjs_binding.node', '');
      write('deps/lib/libtensorflow_framework.so.2', library('$ORIGIN/../nvidia/cuda_runtime/lib:$ORIGIN/x'));
      expectEqual(lookAt(gpu, folder).isCuda12, true);
      expectEqual(lookAt(cpu, folder).isCuda12, true);
      process.env.CUDA_VISIBLE_DEVICES = '-1';
      expectEqual(lookAt(gpu, folder).noGpu, "CUDA_VISIBLE_DEVICES is '-1'");
    });

    it('reads the run path of a library, and none of anything else', () => {
      const file = write('a.so', library('$ORIGIN/../lib:/opt/lib'));
      expectEqual(runPath(file), [`${folder}/../lib`, '/opt/lib']);
      expectEqual(runPath(write('b.so', 'no library')), []);
      expectEqual(runPath(write('c.so', '')), []);
    });

    it('opens libraries by name and by folder', () => {
      expectEqual(opens('libc.so.6'), true);
      expectEqual(opens('libmissing.so.6'), false);
      write('libbroken.so.1', 'no library');
      expectEqual(opens('libbroken.so.1', [folder]), false);
    });
  });

  describe('choice', () => {
    const runs: TfjsNode = { name: gpu, folder: '', isCuda12: true };
    const onCpu: TfjsNode = {
      name: cpu,
      folder: '',
      isCuda12: false,
      noGpu: 'its TensorFlow is built for CPUs',
    };

    it('takes the package that has a GPU', () => {
      expectEqual(chooseTfjsNode([runs, onCpu]), { chosen: runs });
      const other = { ...onCpu, isCuda12: true, noGpu: undefined };
      const blind = { ...runs, noGpu: noDriver };
      expectEqual(chooseTfjsNode([blind, other]).chosen, other);
    });

    it('takes the one for the CPU where there is no GPU, and says why', () => {
      const blind = { ...runs, noGpu: noDriver };
      expectEqual(chooseTfjsNode([blind, onCpu]), { chosen: onCpu, noGpu: `${gpu}: ${noDriver}` });
      expectEqual(chooseTfjsNode([blind]), { chosen: blind, noGpu: `${gpu}: ${noDriver}` });
      const bare = { ...runs, missing: 'libtensorflow' };
      const bareText = `${gpu}: no libtensorflow: run 'npx tfjs-mla setup-tensorflow --gpu', or its own install script`;
      expectEqual(chooseTfjsNode([bare, onCpu]), { chosen: onCpu, noGpu: bareText });
      expectEqual(chooseTfjsNode([onCpu]).noGpu, undefined);
    });

    it('says what is missing where none is whole', () => {
      const choose = (...installed: TfjsNode[]) =>
        expectThrows.bind(undefined, () => chooseTfjsNode(installed));
      choose()(
        `tfjs-mla/node: ${cpu} is not installed: run 'npm install --ignore-scripts ${cpu}@4.22.0' and 'npx tfjs-mla setup-tensorflow'`,
      );
      choose({ ...onCpu, missing: 'libtensorflow' })(
        `tfjs-mla/node: ${cpu} has no libtensorflow: run 'npx tfjs-mla setup-tensorflow', or its own install script`,
      );
      choose({ ...runs, missing: 'binding' })(
        `tfjs-mla/node: ${gpu} has no binding: run 'npx tfjs-mla setup-tensorflow --gpu', or its own install script`,
      );
    });
  });

  describe('environment', () => {
    const environment = () => variables.map((name) => process.env[name]);

    it('of a GPU: its first one alone, memory as it is needed', () => {
      const runs: TfjsNode = { name: gpu, folder, isCuda12: true };
      prepareProcess(runs);
      expectEqual(environment(), ['0', 'true', '1']);
      Object.assign(process.env, {
        CUDA_VISIBLE_DEVICES: '2,3',
        TF_FORCE_GPU_ALLOW_GROWTH: 'false',
        TF_CPP_MIN_LOG_LEVEL: '0',
      });
      prepareProcess(runs);
      expectEqual(environment(), ['2', 'false', '0']);
      expectEqual(areGpusHidden(), false);
    });

    it('of a build for CUDA that would not start: no GPU', () => {
      prepareProcess({ name: gpu, folder, isCuda12: true, noGpu: 'libcudart.so.12 does not open' });
      expectEqual(environment(), ['-1', undefined, '1']);
      expectEqual(areGpusHidden(), true);
    });

    it('of a build for CPUs: as it is', () => {
      prepareProcess({ name: cpu, folder, isCuda12: false, noGpu: 'its TensorFlow is built for CPUs' });
      expectEqual(environment(), [undefined, undefined, '1']);
    });
  });

  function write(name: string, content: string | Buffer): string {
    const file = join(folder, name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
    return file;
  }
});

/** The least of a shared library that has a run path: a header, two segments, a dynamic section and its strings. */
function library(path: string): Buffer {
  const [headers, dynamic, strings, address] = [64, 64 + 2 * 56, 64 + 2 * 56 + 3 * 16, 0x1000];
  const bytes = Buffer.alloc(strings + 1 + path.length + 1);
  const word = (value: number, at: number) => bytes.writeBigUInt64LE(BigInt(value), at);
  bytes.write('\x7fELF\x02');
  word(headers, 32);
  bytes.writeUInt16LE(56, 54);
  bytes.writeUInt16LE(2, 56);
  const segment = (at: number, type: number, from: number, to: number) => {
    bytes.writeUInt32LE(type, at);
    word(from, at + 8);
    word(address + from, at + 16);
    word(to - from, at + 32);
  };
  segment(headers, 1, 0, bytes.length);
  segment(headers + 56, 2, dynamic, strings);
  const entries = [
    [5, address + strings],
    [29, 1],
    [0, 0],
  ];
  entries.forEach(([tag, value], index) => {
    word(tag, dynamic + 16 * index);
    word(value, dynamic + 16 * index + 8);
  });
  bytes.write(path, strings + 1);
  return bytes;
}
