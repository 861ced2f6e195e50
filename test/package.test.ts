/** What a user installs: the packed tarball, imported by plain Node, bundled for a browser, compiled against. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import * as esbuild from 'esbuild';
import { absentChromium, launchChromium } from './browser/chromium.js';

const repository = fileURLToPath(new URL('..', import.meta.url));

/** Every door in package.json's exports but the one for TensorFlow, which needs tfjs-node; and the source that it must export the same names as. */
const doors: Record<string, () => Promise<object>> = {
  'tfjs-mla': () => import('../src/index.js'),
  'tfjs-mla/webgpu': () => import('../src/webgpu.js'),
  'tfjs-mla/wasm': () => import('../src/wasm.js'),
  'tfjs-mla/layers': () => import('../src/layers.js'),
  'tfjs-mla/models': () => import('../src/models.js'),
};

/** With a single key, attention returns the value, and the value's gradient is the output's. */
const computationOn = (backend: string): string => `
  import * as tf from '@tensorflow/tfjs-core';
  import '@tensorflow/tfjs-backend-${backend}';
  import { mlaAttention } from 'tfjs-mla';
  ${backend === 'cpu' ? '' : `import 'tfjs-mla/${backend}';`}
  tf.env().set('PROD', true);
  await tf.setBackend('${backend}');
  const [q, k, v] = [1, 2, 3].map((value) => tf.fill([1, 1, 1, 2], value));
  const dV = tf.grad((v) => mlaAttention(q, k, v))(v);
  console.log([...mlaAttention(q, k, v).dataSync(), ...dV.dataSync()].join());
`;
const computed = '3,3,1,1';

const typedConsumer = `
  import * as tf from '@tensorflow/tfjs-core';
  import { mlaAttention } from 'tfjs-mla';
  import { MultiHeadLatentAttention } from 'tfjs-mla/layers';
  import { loadDeepseek } from 'tfjs-mla/models';
  import { startThreads } from 'tfjs-mla/wasm';
  import { installDevice } from 'tfjs-mla/webgpu';
  const q: tf.Tensor4D = tf.ones([1, 1, 1, 2]);
  export const out: tf.Tensor = mlaAttention(q, q, q, { causal: true, layout: 'bhsd' });
  // @ts-expect-error: fails to compile if the options' types were lost
  mlaAttention(q, q, q, { layout: 'hbsd' });
  export const ready: Promise<void> = installDevice();
  export const threads: Promise<number> = startThreads(2);
  export { MultiHeadLatentAttention, loadDeepseek };
`;
const typedConsumerOptions = {
  compilerOptions: {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    module: 'nodenext',
    target: 'es2022',
    types: [],
  },
  files: ['consumer.ts'],
};

describe('package', () => {
  let consumer: string;

  before('build, pack and install', async function () {
    this.timeout(300_000);
    consumer = mkdtempSync(join(tmpdir(), 'tfjs-mla-consumer-'));
    await run('npm', ['run', 'build'], repository);
    await run('npm', ['pack', '--pack-destination', consumer], repository);
    await install(consumer);
  });

  after(() => rmSync(consumer, { recursive: true, force: true }));

  it('has the doors that are tested here', () => {
    const { exports } = readManifest(consumer);
    assert.deepEqual(
      Object.keys(exports).map((path) => `tfjs-mla${path.slice(1)}`),
      [...Object.keys(doors), 'tfjs-mla/node'],
    );
  });

  for (const [door, source] of Object.entries(doors)) {
    it(`${door}: plain Node gets every name`, async () => {
      const names = await runModule(
        `import * as door from '${door}'; console.log(Object.keys(door).sort().join());`,
      );
      assert.equal(
        names,
        Object.keys(await source())
          .sort()
          .join(),
      );
    });

    it(`${door}: a browser bundle needs nothing but its peers`, async () => {
      const { metafile } = await bundle(`export * from '${door}';`, ['@tensorflow/*']);
      const imports = Object.values(metafile.outputs).flatMap((output) =>
        output.imports.map(({ path }) => path),
      );
      const { peerDependencies } = readManifest(consumer);
      for (const path of imports)
        assert.ok(path in peerDependencies, `${path} is not among the peerDependencies`);
    });
  }

  it('tfjs-mla: all of it is less than 60 kB when compressed', async () => {
    const { outputFiles } = await bundle(`export * from 'tfjs-mla';`, ['@tensorflow/*']);
    const bytes = gzipSync(outputFiles[0].contents).length;
    assert.ok(bytes < 60_000, `expected less than 60000 bytes, got ${bytes}`);
  });

  it('tfjs-mla/wasm: with all variants of its kernels, less than 40 kB when compressed', async () => {
    const { outputFiles } = await bundle(`export * from 'tfjs-mla/wasm';`, ['@tensorflow/*']);
    const bytes = gzipSync(outputFiles[0].contents).length;
    assert.ok(bytes < 40_000, `expected less than 40000 bytes, got ${bytes}`);
  });

  for (const backend of ['cpu', 'wasm']) {
    it(`computes in plain Node on ${backend}`, async () => {
      assert.equal(await runModule(computationOn(backend)), computed);
    });
  }

  const reason = absentChromium();
  if (reason) it.skip(`computes from a browser bundle: Chromium: ${reason}`);
  else {
    it('computes from a browser bundle with tfjs inside', async () => {
      const { outputFiles } = await bundle(computationOn('cpu'), []);
      assert.equal(await runInBrowser(outputFiles[0].text), computed);
    });
  }

  it('tfjs-mla/node: says what is missing, and the command that mends it', async () => {
    const said = await runModule(
      `await import('tfjs-mla/node').catch(({ message }) => console.log(message));`,
    );
    assert.match(
      said,
      /^tfjs-mla\/node: @tensorflow\/tfjs-node is not installed: run 'npm install .+setup-tensorflow'$/,
    );
  });

  it('brings the command line tfjs-mla', async () => {
    const program = join(consumer, 'node_modules/.bin/tfjs-mla');
    const lines = (await run(program, ['doctor'], consumer)).split('\n');
    assert.equal(lines[0], `ok  Node ${process.versions.node} on ${process.platform} ${process.arch}`);
  });

  it('has types for a strict consumer', async () => {
    writeFileSync(join(consumer, 'consumer.ts'), typedConsumer);
    writeFileSync(join(consumer, 'tsconfig.json'), JSON.stringify(typedConsumerOptions));
    await run(process.execPath, [join(repository, 'node_modules/typescript/bin/tsc')], consumer);
  });

  /** In Node alone: no tsx, and none of this process's flags. */
  async function runModule(code: string): Promise<string> {
    const file = join(consumer, 'main.mjs');
    writeFileSync(file, code);
    return (await run(process.execPath, [file], consumer)).trim();
  }

  /** An import that is neither installed nor external fails the build: Node's own modules, our development packages. */
  async function bundle(contents: string, external: string[]) {
    return esbuild.build({
      stdin: { contents, resolveDir: consumer },
      bundle: true,
      platform: 'browser',
      format: 'esm',
      target: 'es2022',
      minify: true,
      external,
      metafile: true,
      write: false,
      logLevel: 'silent',
    });
  }
});

/** Into an empty folder, as a user would; npm has the peers in its cache since this project's own installation. */
async function install(folder: string): Promise<void> {
  const { name, version, peerDependencies } = readPackage(repository);
  const backends = ['@tensorflow/tfjs-backend-wasm', '@tensorflow/tfjs-backend-webgpu'];
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ type: 'module', private: true }));
  await run(
    'npm',
    [
      ...['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund'],
      ...[`./${name}-${version}.tgz`, ...backends.map((peer) => `${peer}@${peerDependencies[peer]}`)],
    ],
    folder,
  );
}

async function runInBrowser(code: string): Promise<string> {
  const browser = await launchChromium({ webgpu: false });
  try {
    const page = await browser.newPage();
    const line = page.waitForEvent('console');
    await page.addScriptTag({ type: 'module', content: code });
    return (await line).text();
  } finally {
    await browser.close();
  }
}

interface Manifest {
  readonly name: string;
  readonly version: string;
  readonly exports: object;
  readonly peerDependencies: Record<string, string>;
}

function readManifest(consumer: string): Manifest {
  return readPackage(join(consumer, 'node_modules/tfjs-mla'));
}

function readPackage(folder: string): Manifest {
  return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest;
}

/** Compilers report on stdout, which execFile's own error leaves out. */
async function run(command: string, args: readonly string[], cwd: string): Promise<string> {
  return new Promise((resolve, reject) => {
    execFile(command, args, { cwd }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${error.message}\n${stdout}${stderr}`));
      else resolve(stdout);
    });
  });
}
