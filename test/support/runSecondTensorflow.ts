/**
 * npm run test:tensorflow-2.21: a part of the tests on a second TensorFlow, behind a copy of tfjs-node that is made once.
 * Where pip has no such wheel, or there are no tools to build the binding, it says so and runs nothing.
 */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync } from 'node:fs';
import { join } from 'node:path';

const version = '2.21.0';
const root = join(import.meta.dirname, '../..');
const app = join(root, `node_modules/.cache/tensorflow-${version}`);
const packageFolder = 'node_modules/@tensorflow/tfjs-node';
const copy = join(app, packageFolder);
const tsx = import.meta.resolve('tsx');

/** Goldens, gradients on the numbers of small shapes, the ops' own peculiarities, and what is made of them. */
const specs = [
  'smoke',
  'golden',
  'gradients',
  'tensorflow',
  'tensorflowTypes',
  'mlaAttention',
  'mlaDecode',
  'latentCache',
  'rowKernels',
  'training',
];

function node(args: string[], cwd: string, environment: Record<string, string> = {}): number | null {
  const env = { ...process.env, ...environment };
  return spawnSync(process.execPath, args, { cwd, env, stdio: 'inherit' }).status;
}

/** Without the libraries and the binding of the first one. */
function copyPackage(): void {
  const original = join(root, packageFolder);
  const left = ['deps', 'lib', 'build'].map((name) => join(original, name));
  if (!existsSync(copy)) cpSync(original, copy, { recursive: true, filter: (path) => !left.includes(path) });
}

function setUp(): boolean {
  copyPackage();
  const main = join(root, 'src/cli/main.ts');
  return node(['--import', tsx, main, 'setup-tensorflow', '--version', version], app) === 0;
}

if (setUp()) {
  const mocha = join(root, 'node_modules/mocha/bin/mocha.js');
  const flags = ['--no-experimental-require-module', '--import', 'tsx', mocha];
  const files = specs.flatMap((name) => ['--spec', `test/${name}.test.ts`]);
  const environment = {
    MLA_TEST_BACKEND: 'tensorflow',
    MLA_TEST_TFJS_NODE: copy,
    TF_CPP_MIN_LOG_LEVEL: '1',
  };
  process.exitCode = node([...flags, ...files, ...process.argv.slice(2)], root, environment) ?? 1;
} else {
  console.log(`tensorflow ${version}: skipped: its wheel by pip, and g++ and make, are needed`);
}
