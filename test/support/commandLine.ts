/** A folder of a user's for tests of the command line, where tfjs-node and the tools that build it are imitations. */
import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { expectEqual, expectTrue } from './expect.js';

const tsx = import.meta.resolve('tsx');
const main = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url));

export const placed = {
  'deps/lib/libtensorflow_cc.so.2': 'tensorflow/libtensorflow_cc.so.2',
  'deps/lib/libtensorflow_framework.so.2': 'tensorflow/libtensorflow_framework.so.2',
  'deps/include/tensorflow/c/c_api.h': 'tensorflow/include/tensorflow/c/c_api.h',
  'deps/include/tensorflow/c/eager/c_api.h': 'tensorflow/include/tensorflow/c/eager/c_api.h',
  'deps/include/tsl/platform/ctstring.h': 'tensorflow/include/tsl/platform/ctstring.h',
  'deps/include/xla/tsl/c/tsl_status.h': 'tensorflow/include/xla/tsl/c/tsl_status.h',
} as const;
export const links = {
  'deps/lib/libtensorflow.so': 'libtensorflow_cc.so.2',
  'deps/lib/libtensorflow_framework.so': 'libtensorflow_framework.so.2',
};
export const binding = 'lib/napi-v8/tfjs_binding.node';
export const cudaFolder = 'deps/nvidia/cuda_runtime/lib';
export const cudaParts = ['cuda_runtime', 'cublas', 'cudnn', 'cufft', 'cusolver', 'cusparse', 'nvjitlink'];
export const afterSetup = [
  ...Object.keys(placed),
  ...Object.keys(links),
  'deps/tfjs-mla.json',
  binding,
].sort();

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

/** Every test of a suite gets an empty one. */
export function useApp(): App {
  const app = new App();
  beforeEach(() => {
    app.folder = mkdtempSync(join(tmpdir(), 'tfjs-mla-cli-'));
    app.tfjsNode = join(app.folder, 'node_modules/@tensorflow/tfjs-node');
  });
  afterEach(() => rmSync(app.folder, { recursive: true, force: true }));
  return app;
}

class App {
  folder = '';
  /** Where the imitation is; a test may put another in its place. */
  tfjsNode = '';

  imitateTfjsNode(): void {
    const manifest = { name: '@tensorflow/tfjs-node', version: '4.22.0', main: 'index.js' };
    write(
      join(this.tfjsNode, 'package.json'),
      JSON.stringify({ ...manifest, binary: { napi_versions: [3, 8] } }),
    );
    write(join(this.tfjsNode, 'index.js'), imitation);
    write(join(this.folder, 'package.json'), '{}');
    write(join(this.folder, 'node_modules/.bin/node-pre-gyp'), gyp, 0o755);
    for (const tool of ['g++', 'make']) write(join(this.folder, 'tools', tool), '#!/bin/sh\n', 0o755);
  }

  /** Hides a TensorFlow that python3 may have here. */
  withoutTensorflow(): string {
    write(join(this.folder, 'hidden/tensorflow/__init__.py'), '');
    return join(this.folder, 'hidden');
  }

  writeWheel(
    version: string,
    file = join(this.folder, `tensorflow_cpu-${version}-any.whl`),
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

  writeCudaWheel(part: string, shop: string): string {
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
  withCuda(): string[] {
    return [...afterSetup, ...cudaParts.map((part) => `${cudaFolder}/lib${part}.so.12`)].sort();
  }

  setUp(...flags: string[]) {
    const result = this.run(['setup-tensorflow', ...flags]);
    expectEqual(result.status, 0, result.stderr);
    return result;
  }

  expectFailure(args: string[], message: string): string {
    const { status, stderr } = this.run(args);
    expectEqual(status, 1);
    expectTrue(stderr.includes(message), `expected "${message}", got "${stderr}"`);
    expectTrue(!stderr.includes('    at '), stderr);
    return stderr;
  }

  doctorLines(): string[] {
    const { status, stdout, stderr } = this.run(['doctor']);
    expectEqual(status, 0, stderr);
    return stdout.trimEnd().split('\n');
  }

  run(args: string[], environment: Record<string, string> = {}) {
    const PATH = `${join(this.folder, 'tools')}${delimiter}${process.env.PATH}`;
    return spawnSync(process.execPath, ['--import', tsx, main, ...args], {
      cwd: this.folder,
      encoding: 'utf8',
      // the imitation has no TensorFlow in it for our library to find
      env: { ...process.env, PATH, MLA_NATIVE: '', ...environment },
    });
  }

  builds(): string[] {
    return readFileSync(join(this.folder, 'builds'), 'utf8').trim().split('\n');
  }

  content(file: string): string {
    return readFileSync(join(this.tfjsNode, file), 'utf8');
  }

  added(before: readonly string[]): string[] {
    return files(this.tfjsNode).filter((file) => !before.includes(file));
  }
}

export const wheelTag = 'cp311-cp311-manylinux_2_17_x86_64';

export function wheelName(name: string, version: string): string {
  return `${name}-${version}-${wheelTag}.whl`;
}

export function wheelMetadata(name: string, version: string): Record<string, string> {
  const folder = `${name}-${version}.dist-info`;
  return {
    [`${folder}/METADATA`]: `Metadata-Version: 2.1\nName: ${name.replaceAll('_', '-')}\nVersion: ${version}\n`,
    [`${folder}/WHEEL`]: `Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: ${wheelTag}\n`,
  };
}

export function hasPip(): boolean {
  return spawnSync('python3', ['-m', 'pip', '--version']).status === 0;
}

export function write(file: string, text: string, mode = 0o644): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, text);
  chmodSync(file, mode);
}

export function everything(folder: string): string[] {
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
export function writeZip(file: string, entries: Record<string, string>): void {
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
