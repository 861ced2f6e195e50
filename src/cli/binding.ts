/** The native half of tfjs-node: built here, tried in a process of its own. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { nativeLibrary } from '../../kernels/tensorflow/native.js';
import type { CudaReport } from '../../kernels/tensorflow/native.js';
import { versionText } from '../core/versionText.js';
import { bindingFile } from '../device/tfjsNode.js';
import { say, stop } from './progress.js';
import { addPart, removePart, sourceOf } from './tfjsNode.js';

const tools = ['g++', 'make', 'python3']; // the last one for node-gyp

export function absentTools(): string[] {
  return tools.filter((tool) => spawnSync(tool, ['--version'], { timeout: 30_000 }).status !== 0);
}

export async function buildBinding(folder: string, source: string): Promise<void> {
  if (sourceOf(folder, 'binding') === source) return say('the binding is there already');
  const absent = absentTools();
  if (absent.length > 0) {
    const advice =
      'install them (Debian, Ubuntu: apt-get install g++ make python3) and run this command again';
    stop(`expected ${tools.join(', ')} to build the binding, got no ${absent.join(', no ')}; ${advice}`);
  }
  say('building the binding');
  const file = bindingFile(folder);
  const workFolders = ['build', `build-tmp-${basename(dirname(file))}`];
  await addPart(folder, 'binding', source, [file], async () => {
    await addPart(folder, 'build', source, workFolders, () => runGyp(folder));
    removePart(folder, 'build');
  });
}

/** Through npx, which hands npm's own node-gyp and the user's nodedir on. */
function runGyp(folder: string): void {
  const { status, stdout, stderr } = spawnSync(
    'npx',
    ['--no-install', 'node-pre-gyp', 'install', '--build-from-source'],
    { cwd: folder, encoding: 'utf8', maxBuffer: 2 ** 28 },
  );
  if (status === 0 && existsSync(join(folder, bindingFile(folder)))) return;
  process.stderr.write(`${stdout}${stderr}`);
  const advice = 'the reason is above; where the headers of Node cannot be downloaded set npm_config_nodedir';
  stop(`expected node-pre-gyp to build the binding, got exit code ${status}; ${advice}`);
}

export interface Computation {
  readonly tensorflow: string;
  readonly gpu: boolean;
  /** What an op of ours ran with; absent without a native library, and what is of CUDA without a GPU. */
  readonly instructions?: string;
  readonly cuda?: CudaReport;
}

/** tfjs-node 4.22.0 calls functions of node:util that Node 24 no longer has. */
const attempt = `
const util = require('node:util');
util.isNullOrUndefined ??= (value) => value === null || value === undefined;
util.isArray ??= Array.isArray;
const tf = require(process.argv[1]);
const product = tf.matMul(tf.tensor2d([1, 2, 3, 4], [2, 2]), tf.tensor2d([5, 6, 7, 8], [2, 2])).dataSync();
if (product.join() !== '19,22,43,50') throw new Error('a wrong product: ' + product.join());
const { binding, isUsingGpuDevice } = tf.backend();
const library = process.argv[2];
const { instructions, cuda } = library ? require(library).register() : {};
if (library) {
  const attributes = [
    { name: 'T', type: binding.TF_ATTR_TYPE, value: binding.TF_FLOAT },
    { name: 'softmax_scale', type: binding.TF_ATTR_FLOAT, value: 1 },
  ];
  const [x, none, noLengths] = [tf.ones([1, 3, 1, 4]), tf.ones([0]), tf.tensor1d([], 'int32')];
  const inputs = [x, x, x, none, noLengths, noLengths];
  const [out] = tf.backend().executeMultipleOutputs('MLAAttention', attributes, inputs, 2);
  if (!out.dataSync().every((value) => Math.abs(value - 1) < 1e-6)) throw new Error('wrong: ' + out.dataSync().join());
}
console.log(JSON.stringify({ tensorflow: binding.TF_Version, gpu: isUsingGpuDevice, instructions, cuda }));
`;

/** A matrix product and an op of ours, in a process that may die: a CUDA library that is missing ends it. */
export function compute(folder: string): Computation | { readonly reason: string } {
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ['-e', attempt, folder, nativeLibrary() ?? ''],
    {
      encoding: 'utf8',
      timeout: 120_000,
      // as src/device/loadTfjsNode.ts has it
      env: {
        TF_CPP_MIN_LOG_LEVEL: '2',
        TF_FORCE_GPU_ALLOW_GROWTH: 'true',
        CUDA_VISIBLE_DEVICES: '0',
        ...process.env,
      },
    },
  );
  const answer = stdout.trim().split('\n').at(-1);
  if (status === 0 && answer) return JSON.parse(answer) as Computation;
  const said = stderr.split('\n').find((line) => /Error: |what\(\)/.test(line));
  return { reason: [signal ?? `exit code ${status}`, said?.trim()].filter(Boolean).join(', ') };
}

export function computationText({ tensorflow, gpu, instructions, cuda }: Computation): string {
  if (gpu && cuda) {
    const device = `${cuda.device} (compute capability ${versionText(cuda.capability)})`;
    const maps = cuda.noCublas === undefined ? 'cuBLAS' : `TensorFlow's MatMul (${cuda.noCublas})`;
    return `computes with TensorFlow ${tensorflow} on the ${device}, our ops with their CUDA ${cuda.images} images, linear maps by ${maps}`;
  }
  const ops = instructions ? `our ops with ${instructions}` : 'without our ops';
  return `computes with TensorFlow ${tensorflow} on the ${gpu ? 'GPU' : 'CPU'}, ${ops}`;
}
