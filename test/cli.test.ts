/** The command line, as a process in a folder of its own, where tfjs-node and the tools that build it are imitations. */
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync } from 'node:fs';
import { readlinkSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { imagesOf } from '../src/cli/nvidia.js';
import { expectEqual, expectTrue } from './support/expect.js';

const tsx = import.meta.resolve('tsx');
const main = fileURLToPath(new URL('../src/cli/main.ts', import.meta.url));

const placed = {
  'deps/lib/libtensorflow_cc.so.2': 'tensorflow/libtensorflow_cc.so.2',
  'deps/lib/libtensorflow_framework.so.2': 'tensorflow/libtensorflow_framework.so.2',
  'deps/include/tensorflow/c/c_api.h': 'tensorflow/include/tensorflow/c/c_api.h',
  'deps/include/tensorflow/c/eager/c_api.h': 'tensorflow/include/tensorflow/c/eager/c_api.h',
  'deps/include/tsl/platform/ctstring.h': 'tensorflow/include/tsl/platform/ctstring.h',
  'deps/include/xla/tsl/c/tsl_status.h': 'tensorflow/include/xla/tsl/c/tsl_status.h',
} as const;
const links = {
  'deps/lib/libtensorflow.so': 'libtensorflow_cc.so.2',
  'deps/lib/libtensorflow_framework.so': 'libtensorflow_framework.so.2',
};
const binding = 'lib/napi-v8/tfjs_binding.node';
const cudaFolder = 'deps/nvidia/cuda_runtime/lib';
const cudaParts = ['cuda_runtime', 'cublas', 'cudnn', 'cufft', 'cusolver', 'cusparse', 'nvjitlink'];
const afterSetup = [...Object.keys(placed), ...Object.keys(links), 'deps/tfjs-mla.json', binding].sort();

/** Answers as the real one does when the libraries are there; the binding says what it was built for. */
const imitation = `
  const fs = require('node:fs');
  const wrong = fs.existsSync(__dirname + '/deps/lib/wrong');
  exports.tensor2d = (values) => values;
  exports.matMul = () => ({ dataSync: () => (wrong ? [0, 0, 0, 0] : [19, 22, 43, 50]) });
  exports.backend = () => ({
    isUsingGpuDevice: false,
    binding: { TF_Version: fs.readFileSync(__dirname + '/${binding}', 'utf8').trim() },
  });
`;
const gyp = `#!/bin/sh
echo "$@" >> ../../../builds
mkdir -p lib/napi-v8 build
test ! -e ../../../broken || { echo a compiler error; exit 1; }
mv build build-tmp-napi-v8
head -c 6 deps/lib/libtensorflow.so > ${binding}
`;

describe('tfjs-mla', () => {
  let app: string;
  let tfjsNode: string;

  beforeEach(() => {
    app = mkdtempSync(join(tmpdir(), 'tfjs-mla-cli-'));
    tfjsNode = join(app, 'node_modules/@tensorflow/tfjs-node');
  });

  afterEach(() => rmSync(app, { recursive: true, force: true }));

  describe('help', () => {
    for (const args of [[], ['--help']]) {
      it(`[${args.join()}] names both commands`, () => {
        const { status, stdout } = run(args);
        expectEqual(status, 0);
        for (const command of ['setup-tensorflow', 'doctor']) expectTrue(stdout.includes(command), stdout);
      });
    }

    it('names the flags of setup-tensorflow', () => {
      const { status, stdout } = run(['setup-tensorflow', '--help']);
      expectEqual(status, 0);
      const flags = ['--gpu', '--version', '--wheel', '--undo'];
      for (const flag of flags) expectTrue(stdout.includes(`\n  ${flag}`), stdout);
    });

    it('says what doctor does', () => {
      const { status, stdout } = run(['doctor', '--help']);
      expectEqual(status, 0);
      expectTrue(stdout.startsWith('usage: tfjs-mla doctor'), stdout);
    });

    it('is named by the error about an unknown command, and a flag', () => {
      expectFailure(
        ['mend'],
        'tfjs-mla: expected setup-tensorflow or doctor, got mend; see npx tfjs-mla --help',
      );
      expectFailure(['doctor', '--all'], "Unknown option '--all'");
    });
  });

  describe('doctor', () => {
    it('prints its lines in an empty folder, and what to do', () => {
      const lines = doctorLines();
      const first = `ok  Node ${process.versions.node} on ${process.platform} ${process.arch}`;
      expectEqual(lines[0], first);
      expectEqual(
        lines.filter((line) => !/^(ok|no) {2}\S/.test(line)),
        [],
      );
      const install = 'npm install --ignore-scripts @tensorflow';
      for (const line of [
        `no  @tensorflow/tfjs-core: ${install}/tfjs-core@4.22.0`,
        `no  @tensorflow/tfjs-backend-webgpu: ${install}/tfjs-backend-webgpu@4.22.0`,
        'ok  WebAssembly SIMD',
        'no  Dawn (WebGPU in Node), package webgpu: npm install webgpu',
        `no  @tensorflow/tfjs-node: ${install}/tfjs-node@4.22.0`,
        `no  @tensorflow/tfjs-node-gpu: ${install}/tfjs-node-gpu@4.22.0`,
      ]) {
        expectTrue(lines.includes(line), `expected the line "${line}", got\n${lines.join('\n')}`);
      }
      for (const what of [
        'relaxed SIMD',
        'g++',
        'pip',
        'TensorFlow of python3',
        'NVIDIA driver',
        'tfjs-mla/node',
      ]) {
        expectEqual(lines.filter((line) => line.includes(what)).length, 1, `lines about ${what}`);
      }
    });

    it('tells a tfjs-node without libraries, one that runs, and one that does not', () => {
      imitateTfjsNode();
      const name = '@tensorflow/tfjs-node';
      const about = () => doctorLines().filter((line) => line.includes(name) && !line.includes('-gpu'));
      const mend = 'npx tfjs-mla setup-tensorflow';
      expectEqual(about(), [
        `ok  ${name} 4.22.0`,
        `no  ${name}: libtensorflow: ${mend}`,
        `no  ${name}: binding: ${mend}`,
        `no  tfjs-mla/node: ${name} has no libtensorflow: run '${mend}', or its own install script`,
      ]);
      write(join(tfjsNode, 'deps/lib/libtensorflow.so.2.9.1'), '');
      write(join(tfjsNode, binding), '2.9.1');
      const whole = [`ok  ${name} 4.22.0`, `ok  ${name}: libtensorflow 2.9.1`, `ok  ${name}: binding`];
      const door = `ok  tfjs-mla/node loads ${name} and computes on the CPU (its TensorFlow is built for CPUs)`;
      expectEqual(about(), [
        ...whole,
        `ok  ${name} computes with TensorFlow 2.9.1 on the CPU, without our ops`,
        door,
      ]);
      write(join(tfjsNode, 'index.js'), 'process.abort();');
      expectEqual(about(), [...whole, `no  ${name} computes (SIGABRT): ${mend}`, door]);
    });

    it('tells the GPUs, and which of them our kernels run on', () => {
      write(
        join(app, 'tools/nvidia-smi'),
        `#!/bin/sh\ntest "$1" = --query-gpu=name,compute_cap && printf 'NVIDIA H200, 9.0\\nTesla T4, 7.5\\n'`,
        0o755,
      );
      const mend = 'our kernels need 8.0; CUDA_VISIBLE_DEVICES=-1 computes on the CPU';
      expectEqual(
        doctorLines().filter((line) => line.includes('  GPU ')),
        ['ok  GPU NVIDIA H200, compute capability 9.0', `no  GPU Tesla T4, compute capability 7.5: ${mend}`],
      );
    });

    it('knows which images of our kernels a driver takes', () => {
      const drivers = ['580.159.03', '579.9', '525.60.13', '470.57.02'];
      expectEqual(drivers.map(imagesOf), [13, 12, 12, undefined]);
    });

    it('says what a tfjs-node-gpu lacks that has a TensorFlow for CUDA', () => {
      tfjsNode += '-gpu';
      imitateTfjsNode();
      write(join(tfjsNode, 'deps/lib/libtensorflow_framework.so.2'), '');
      write(join(tfjsNode, binding), '2.21.0');
      const mend = 'npx tfjs-mla setup-tensorflow --gpu';
      const line = `no  @tensorflow/tfjs-node-gpu: libcudart.so.12: ${mend}`;
      expectTrue(doctorLines().includes(line), doctorLines().join('\n'));
    });

    it('does not stumble over a broken package', () => {
      write(join(tfjsNode, 'package.json'), 'no JSON');
      expectTrue(
        doctorLines().some((line) => line.includes('is not valid JSON')),
        doctorLines().join('\n'),
      );
    });
  });

  describe('setup-tensorflow', function () {
    before(function () {
      if (process.platform !== 'linux' || process.arch !== 'x64') this.skip();
    });

    it('needs tfjs-node, and names the command that installs it', () => {
      expectFailure(
        ['setup-tensorflow'],
        'tfjs-mla: setup-tensorflow: expected @tensorflow/tfjs-node to be installed in this folder, got none; ' +
          'npm install --ignore-scripts @tensorflow/tfjs-node@4.22.0',
      );
      expectFailure(['setup-tensorflow', '--gpu'], 'tfjs-node-gpu@4.22.0');
    });

    it('refuses what is no wheel of TensorFlow, and writes nothing', () => {
      imitateTfjsNode();
      const before = everything(tfjsNode);
      const file = join(app, 'a.whl');
      const refuse = (message: string, ...flags: string[]) =>
        expectFailure(['setup-tensorflow', '--wheel', file, ...flags], message);
      refuse(`expected a wheel, got ${file}, which does not exist`);
      write(file, 'This is a text, and a text is no zip file.');
      refuse('which is no zip file');
      writeZip(file, { 'a.txt': 'a' });
      refuse('a zip file without a .dist-info folder');
      writeZip(file, {
        'tensorflow_cpu-2.9.1.dist-info/METADATA': '',
        [placed['deps/lib/libtensorflow_framework.so.2']]: '',
      });
      refuse('got tensorflow_cpu-2.9.1 without libtensorflow_cc.so.2');
      writeWheel('2.18.1', file);
      refuse('expected version 2.21.0, got a wheel of tensorflow_cpu-2.18.1', '--version', '2.21.0');
      expectEqual(everything(tfjsNode), before);
    });

    it('writes nothing of a wheel that is damaged', () => {
      imitateTfjsNode();
      const before = everything(tfjsNode);
      const wheel = writeWheel('2.18.1');
      const bytes = readFileSync(wheel);
      bytes[bytes.indexOf('2.18.1 tensorflow/libtensorflow_framework')] = 0x33;
      writeFileSync(wheel, bytes);
      const message = 'expected tensorflow/libtensorflow_framework.so.2 whole, got other bytes';
      expectFailure(['setup-tensorflow', '--wheel', wheel], message);
      expectEqual(everything(tfjsNode), before);
    });

    it('unpacks a wheel, once, and --undo removes just that', () => {
      imitateTfjsNode();
      write(join(tfjsNode, 'deps/lib/mine'), 'mine');
      const before = everything(tfjsNode);
      const wheel = writeWheel('2.18.1');

      const first = setUp('--wheel', wheel);
      expectEqual(
        first.stdout,
        '@tensorflow/tfjs-node computes with TensorFlow 2.18.1 on the CPU, without our ops\n',
      );
      expectTrue(first.stderr.includes('unpacking 6 files'), first.stderr);
      expectEqual(added(before), afterSetup);
      for (const [place, name] of Object.entries(placed)) expectEqual(content(place), `2.18.1 ${name}`);
      for (const [link, target] of Object.entries(links))
        expectEqual(readlinkSync(join(tfjsNode, link)), target);
      expectEqual(builds(), ['install --build-from-source']);

      const library = join(tfjsNode, 'deps/lib/libtensorflow_cc.so.2');
      const written = statSync(library).mtimeMs;
      for (const flags of [['--wheel', wheel], []]) {
        const { stderr } = setUp(...flags);
        expectTrue(stderr.includes('tensorflow_cpu-2.18.1 is there already'), stderr);
        expectTrue(stderr.includes('the binding is there already'), stderr);
      }
      expectEqual(statSync(library).mtimeMs, written);
      expectEqual(builds().length, 1);

      expectEqual(setUp('--undo').stdout, 'removed binding, tensorflow\n');
      expectEqual(everything(tfjsNode), before);
      expectEqual(setUp('--undo').stdout, 'nothing to remove\n');
    });

    it('changes the version, and gives back at the end what it found', () => {
      imitateTfjsNode();
      write(join(tfjsNode, 'deps/lib/libtensorflow_framework.so.2'), 'stock');
      write(join(tfjsNode, binding), 'stock');
      write(join(tfjsNode, 'build/Makefile'), 'stock');
      const before = everything(tfjsNode);
      setUp('--wheel', writeWheel('2.18.1'));
      const { stdout } = setUp('--wheel', writeWheel('2.21.0'));
      expectTrue(stdout.includes('TensorFlow 2.21.0'), stdout);
      expectEqual(builds().length, 2);
      setUp('--undo');
      expectEqual(everything(tfjsNode), before);
      for (const file of ['deps/lib/libtensorflow_framework.so.2', binding, 'build/Makefile']) {
        expectEqual(content(file), 'stock');
      }
    });

    it('goes on after an interruption, and --undo knows what that left', () => {
      imitateTfjsNode();
      const before = everything(tfjsNode);
      const wheel = writeWheel('2.18.1');
      setUp('--wheel', wheel);
      const record = join(tfjsNode, 'deps/tfjs-mla.json');
      const interrupt = () => {
        writeFileSync(record, content('deps/tfjs-mla.json').replace('"done": true', '"done": false'));
        rmSync(join(tfjsNode, 'deps/lib/libtensorflow_cc.so.2'));
        write(join(tfjsNode, 'deps/lib/libtensorflow_cc.so.2.part'), 'half');
      };
      interrupt();
      const { stderr } = setUp('--wheel', wheel);
      expectTrue(stderr.includes('unpacking 6 files'), stderr);
      expectEqual(added(before), afterSetup);
      interrupt();
      setUp('--undo');
      expectEqual(everything(tfjsNode), before);
    });

    it('says so where the compiler is absent or fails, and leaves no binding', () => {
      imitateTfjsNode();
      const wheel = writeWheel('2.18.1');
      const before = everything(tfjsNode);
      rmSync(join(app, 'tools/g++'));
      const only = join(app, 'only');
      mkdirSync(only);
      symlinkSync(process.execPath, join(only, 'node'));
      const poor = run(['setup-tensorflow', '--wheel', wheel], { PATH: only });
      expectTrue(
        poor.stderr.includes('to build the binding, got no g++, no make, no python3; install'),
        poor.stderr,
      );

      write(join(app, 'tools/g++'), '#!/bin/sh\n', 0o755);
      write(join(app, 'broken'), '');
      const failed = expectFailure(['setup-tensorflow', '--wheel', wheel], 'expected node-pre-gyp to build');
      expectTrue(failed.includes('a compiler error'), failed);
      expectEqual(
        added(before),
        afterSetup.filter((file) => file !== binding),
      );
    });

    it('says so where the product is wrong', () => {
      imitateTfjsNode();
      write(join(tfjsNode, 'deps/lib/wrong'), '');
      const wheel = writeWheel('2.18.1');
      expectFailure(
        ['setup-tensorflow', '--wheel', wheel],
        'got exit code 1, Error: a wrong product: 0,0,0,0',
      );
    });

    it('takes the wheel from where pip is configured to look', function () {
      if (!hasPip()) this.skip();
      imitateTfjsNode();
      const before = everything(tfjsNode);
      const shop = join(app, 'shop');
      for (const version of ['2.18.1', '2.21.0']) {
        writeWheel(version, join(shop, wheelName('tensorflow_cpu', version)));
      }
      const environment = { PIP_NO_INDEX: '1', PIP_FIND_LINKS: shop, PYTHONPATH: withoutTensorflow() };
      const { stdout, stderr, status } = run(['setup-tensorflow'], environment);
      expectEqual(status, 0, stderr);
      expectEqual(
        stdout,
        '@tensorflow/tfjs-node computes with TensorFlow 2.18.1 on the CPU, without our ops\n',
      );
      expectEqual(added(before), afterSetup);
      expectTrue(
        run(['setup-tensorflow', '--version', '2.21.0'], environment).stdout.includes('2.21.0'),
        'version',
      );
      const absent = run(['setup-tensorflow', '--version', '2.20.0'], environment);
      expectTrue(absent.stderr.includes('expected pip to download tensorflow-cpu==2.20.0'), absent.stderr);
    });

    it('puts the libraries of CUDA into one folder, with --gpu', function () {
      if (!hasPip()) this.skip();
      tfjsNode += '-gpu';
      imitateTfjsNode();
      const shop = join(app, 'shop');
      const before = everything(tfjsNode);
      writeWheel('2.21.0', join(shop, wheelName('tensorflow', '2.21.0')), 'tensorflow');
      for (const part of cudaParts) writeCudaWheel(part, shop);
      const environment = { PIP_NO_INDEX: '1', PIP_FIND_LINKS: shop, PYTHONPATH: withoutTensorflow() };
      const { status, stdout, stderr } = run(['setup-tensorflow', '--gpu'], environment);
      expectEqual(status, 0, stderr);
      expectTrue(stdout.startsWith('@tensorflow/tfjs-node-gpu computes with TensorFlow 2.21.0'), stdout);
      expectTrue(stderr.includes('\nnot on a GPU: '), stderr);
      expectEqual(added(before), withCuda());
      setUp('--gpu', '--undo');
      expectEqual(everything(tfjsNode), before);
    });

    it('takes those of CUDA from wheels too, and from what python3 has', () => {
      tfjsNode += '-gpu';
      imitateTfjsNode();
      const before = everything(tfjsNode);
      const site = join(app, 'site');
      const [runtime, ...others] = cudaParts;
      const wheels = others.map((part) => writeCudaWheel(part, join(app, 'shop')));
      wheels.push(writeWheel('2.21.0', join(app, wheelName('tensorflow', '2.21.0')), 'tensorflow'));
      const library = `nvidia/${runtime}/lib/lib${runtime}.so.12`;
      write(join(site, library), runtime);
      const metadata = wheelMetadata(`nvidia_${runtime}_cu12`, '12.9');
      for (const [name, text] of Object.entries(metadata)) write(join(site, name), text);
      write(join(site, `nvidia_${runtime}_cu12-12.9.dist-info/RECORD`), `${library},,\n`);
      const flags = wheels.flatMap((file) => ['--wheel', file]);
      const environment = { PYTHONPATH: site, PIP_NO_INDEX: '1' };
      const { status, stderr } = run(['setup-tensorflow', '--gpu', ...flags], environment);
      expectEqual(status, 0, stderr);
      expectEqual(added(before), withCuda());
      expectEqual(readlinkSync(join(tfjsNode, `${cudaFolder}/lib${runtime}.so.12`)), join(site, library));
      setUp('--gpu', '--undo');
      expectEqual(everything(tfjsNode), before);
      expectTrue(existsSync(join(site, library)), 'the library of python3 is gone');
    });

    it('links the TensorFlow of python3 rather than download one', function () {
      if (!hasPip()) this.skip();
      imitateTfjsNode();
      const before = everything(tfjsNode);
      const site = join(app, 'site');
      write(join(site, 'tensorflow/__init__.py'), 'raise Exception("imported")');
      for (const name of Object.values(placed)) write(join(site, name), `2.19.0 ${name}`);
      for (const [name, text] of Object.entries(wheelMetadata('tensorflow_cpu', '2.19.0'))) {
        write(join(site, name), text);
      }
      const environment = { PYTHONPATH: site, PIP_NO_INDEX: '1' };
      const other = run(['setup-tensorflow', '--version', '2.18.1'], environment);
      expectTrue(
        other.stderr.includes('2.19.0 of python3 is not used: expected version 2.18.1'),
        other.stderr,
      );
      const { stdout, stderr } = run(['setup-tensorflow'], environment);
      expectTrue(stdout.includes('TensorFlow 2.19.0'), stderr);
      expectEqual(added(before), afterSetup);
      for (const [place, name] of Object.entries(placed)) {
        expectEqual(readlinkSync(join(tfjsNode, place)), join(site, name));
      }
      setUp('--undo');
      expectEqual(everything(tfjsNode), before);
      expectTrue(
        existsSync(join(site, placed['deps/lib/libtensorflow_cc.so.2'])),
        'the library of python3 is gone',
      );
    });
  });

  function imitateTfjsNode(): void {
    const manifest = { name: '@tensorflow/tfjs-node', version: '4.22.0', main: 'index.js' };
    write(join(tfjsNode, 'package.json'), JSON.stringify({ ...manifest, binary: { napi_versions: [3, 8] } }));
    write(join(tfjsNode, 'index.js'), imitation);
    write(join(app, 'package.json'), '{}');
    write(join(app, 'node_modules/.bin/node-pre-gyp'), gyp, 0o755);
    for (const tool of ['g++', 'make']) write(join(app, 'tools', tool), '#!/bin/sh\n', 0o755);
  }

  /** Hides a TensorFlow that python3 may have here. */
  function withoutTensorflow(): string {
    write(join(app, 'hidden/tensorflow/__init__.py'), '');
    return join(app, 'hidden');
  }

  function writeWheel(
    version: string,
    file = join(app, `tensorflow_cpu-${version}-any.whl`),
    name = 'tensorflow_cpu',
  ): string {
    const unwanted = ['tensorflow/python/eager.py', 'tensorflow/include/tensorflow/core/framework/op.h'];
    const names = [...Object.values(placed), ...unwanted];
    writeZip(file, {
      ...Object.fromEntries(names.map((each) => [each, `${version} ${each}`])),
      ...wheelMetadata(name, version),
    });
    return file;
  }

  function writeCudaWheel(part: string, shop: string): string {
    const name = `nvidia_${part}_cu12`;
    const file = join(shop, wheelName(name, '9.1'));
    writeZip(file, {
      [`nvidia/${part}/lib/lib${part}.so.12`]: part,
      [`nvidia/${part}/include/${part}.h`]: '',
      ...wheelMetadata(name, '9.1'),
    });
    return file;
  }

  /** The files that --gpu adds. */
  function withCuda(): string[] {
    return [...afterSetup, ...cudaParts.map((part) => `${cudaFolder}/lib${part}.so.12`)].sort();
  }

  function setUp(...flags: string[]) {
    const result = run(['setup-tensorflow', ...flags]);
    expectEqual(result.status, 0, result.stderr);
    return result;
  }

  function expectFailure(args: string[], message: string): string {
    const { status, stderr } = run(args);
    expectEqual(status, 1);
    expectTrue(stderr.includes(message), `expected "${message}", got "${stderr}"`);
    expectTrue(!stderr.includes('    at '), stderr);
    return stderr;
  }

  function doctorLines(): string[] {
    const { status, stdout, stderr } = run(['doctor']);
    expectEqual(status, 0, stderr);
    return stdout.trimEnd().split('\n');
  }

  function run(args: string[], environment: Record<string, string> = {}) {
    const PATH = `${join(app, 'tools')}${delimiter}${process.env.PATH}`;
    return spawnSync(process.execPath, ['--import', tsx, main, ...args], {
      cwd: app,
      encoding: 'utf8',
      // the imitation has no TensorFlow in it for our library to find
      env: { ...process.env, PATH, MLA_NATIVE: '', ...environment },
    });
  }

  function builds(): string[] {
    return readFileSync(join(app, 'builds'), 'utf8').trim().split('\n');
  }

  function content(file: string): string {
    return readFileSync(join(tfjsNode, file), 'utf8');
  }

  function added(before: readonly string[]): string[] {
    return files(tfjsNode).filter((file) => !before.includes(file));
  }
});

const wheelTag = 'cp311-cp311-manylinux_2_17_x86_64';

function wheelName(name: string, version: string): string {
  return `${name}-${version}-${wheelTag}.whl`;
}

function wheelMetadata(name: string, version: string): Record<string, string> {
  const folder = `${name}-${version}.dist-info`;
  return {
    [`${folder}/METADATA`]: `Metadata-Version: 2.1\nName: ${name.replaceAll('_', '-')}\nVersion: ${version}\n`,
    [`${folder}/WHEEL`]: `Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: ${wheelTag}\n`,
  };
}

function hasPip(): boolean {
  return spawnSync('python3', ['-m', 'pip', '--version']).status === 0;
}

function write(file: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
  chmodSync(file, mode);
}

function everything(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
}

/** Files and links, in order. */
function files(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort();
}

/** A zip file whose entries are stored as they are. */
function writeZip(file: string, entries: Record<string, string>): void {
  const bodies: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, text] of Object.entries(entries)) {
    const common = Buffer.alloc(26); // what the two headers of an entry share
    common.writeUInt16LE(20, 0);
    common.writeUInt32LE(crc32(text), 10);
    common.writeUInt32LE(text.length, 14);
    common.writeUInt32LE(text.length, 18);
    common.writeUInt16LE(name.length, 22);
    const place = Buffer.alloc(14);
    place.writeUInt32LE(offset, 10);
    directory.push(Buffer.from('PK\x01\x02\x14\0'), common, place, Buffer.from(name));
    const body = Buffer.concat([Buffer.from('PK\x03\x04'), common, Buffer.from(name + text)]);
    bodies.push(body);
    offset += body.length;
  }
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06');
  const count = Object.keys(entries).length;
  end.writeUInt16LE(count, 8);
  end.writeUInt16LE(count, 10);
  end.writeUInt32LE(Buffer.concat(directory).length, 12);
  end.writeUInt32LE(offset, 16);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, Buffer.concat([...bodies, ...directory, end]));
}
