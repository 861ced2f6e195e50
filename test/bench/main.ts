/** npm run bench: our kernels beside a named peer in the same run. Speed is measured here, never in tests. */
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import * as tf from '@tensorflow/tfjs-core';
// the peer's gradients: tfjs-core alone registers none
import '@tensorflow/tfjs-layers';
import { writeFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { openDawn } from '../../src/device/node.js';
import { benchAttention } from './attention.js';
import { benchDecode } from './decode.js';
import { measure } from './measure.js';
import { table } from './report.js';
import type { Line } from './report.js';
import { attentionShapes, decodeShapes, nameOf } from './shapes.js';
import type { ShapeSet } from './shapes.js';

type BackendName = 'cpu' | 'wasm' | 'webgpu' | 'tensorflow';

interface Flags {
  backend?: BackendName;
  shapes?: ShapeSet;
  peers: string;
  kernels: string;
  stock: boolean;
  json?: string;
}

const program = new Command('bench')
  .description('Times forward, backward and decode, beside a peer in the same run.')
  .addOption(
    new Option('--backend <name>', 'default: webgpu where there is a GPU, else wasm').choices([
      'cpu',
      'wasm',
      'webgpu',
      'tensorflow',
    ]),
  )
  .addOption(
    new Option('--shapes <set>', 'default: paper on a GPU, medium on wasm, small elsewhere').choices(
      Object.keys(attentionShapes),
    ),
  )
  .option('--peers <names>', 'tfjs (composed ops), or none', 'tfjs')
  .option('--kernels <names>', 'comma-separated: attention, decode', 'attention,decode')
  .option('--stock', "keep tfjs's own GPU device instead of ours", false)
  .option('--json <file>', 'also write the figures as JSON');
program.parse();
const flags = program.opts<Flags>();

const device = await chooseBackend(flags);
const set = flags.shapes ?? defaultShapes();
const peers = flags.peers.split(',');
const kernels = flags.kernels.split(',');
console.log(`backend ${tf.getBackend()} on ${device.name}, shapes '${set}'`);
if (tf.getBackend() !== 'webgpu')
  console.log(`tfjs multiplies matrices of 512 at ${await matrixGigaflops()} GFLOP/s`);

const lines: Line[] = [];
if (kernels.includes('attention')) {
  for (const shape of attentionShapes[set]) await add(nameOf(shape), () => benchAttention(shape, peers));
}
if (kernels.includes('decode')) {
  for (const shape of decodeShapes[set]) await add(nameOf(shape), () => benchDecode(shape, peers));
}
console.log(`\n${table(lines)}`);
if (flags.json) writeFileSync(flags.json, JSON.stringify({ device, lines }, null, 2));
process.exit(0);

async function add(name: string, bench: () => Promise<Line[]>): Promise<void> {
  process.stderr.write(`${name} …\n`);
  lines.push(...(await bench()));
}

function defaultShapes(): ShapeSet {
  if (tf.getBackend() === 'wasm' || tf.getBackend() === 'tensorflow') return 'medium';
  return device.isSoftware ? 'small' : 'paper';
}

/** What this machine can do: the yardstick for the figures of the CPU backends. */
async function matrixGigaflops(): Promise<string> {
  const [a, b] = [tf.randomNormal<tf.Rank.R2>([512, 512]), tf.randomNormal<tf.Rank.R2>([512, 512])];
  const { wallMs } = await measure(() => tf.matMul(a, b));
  tf.dispose([a, b]);
  return ((2 * 512 ** 3) / wallMs / 1e6).toPrecision(3);
}

async function chooseBackend({ backend, stock }: Flags): Promise<{ name: string; isSoftware: boolean }> {
  if (backend === undefined || backend === 'webgpu') {
    const dawn = await openDawn();
    if (dawn.adapter && (backend || !dawn.adapter.isSoftware)) {
      await import('@tensorflow/tfjs-backend-webgpu');
      const { installDevice } = await import('../../src/webgpu.js');
      if (stock) await tf.setBackend('webgpu');
      else await installDevice();
      return dawn.adapter;
    }
    if (!dawn.adapter && backend) throw new Error(`bench: backend webgpu is not there: ${dawn.reason}`);
  }
  if (backend === 'tensorflow') {
    await import('../../src/node.js');
    return { name: 'libtensorflow', isSoftware: true };
  }
  await import('../../src/wasm.js');
  await tf.setBackend(backend ?? 'wasm');
  return { name: 'one CPU core', isSoftware: true };
}
