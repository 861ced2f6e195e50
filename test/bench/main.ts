/** npm run bench: our kernels beside a named peer in the same run. Speed is measured here, never in tests. */
import '@tensorflow/tfjs-backend-cpu';
import * as tf from '@tensorflow/tfjs-core';
// the peer's gradients: tfjs-core alone registers none
import '@tensorflow/tfjs-layers';
import { writeFileSync } from 'node:fs';
import { Command, Option } from 'commander';
import { openDawn } from '../../src/device/node.js';
import { benchAttention } from './attention.js';
import { benchDecode } from './decode.js';
import { table } from './report.js';
import type { Line } from './report.js';
import { attentionShapes, decodeShapes, nameOf } from './shapes.js';
import type { ShapeSet } from './shapes.js';

interface Flags {
  backend?: 'cpu' | 'webgpu';
  shapes?: ShapeSet;
  peers: string;
  kernels: string;
  stock: boolean;
  json?: string;
}

const program = new Command('bench')
  .description('Times forward, backward and decode, beside a peer in the same run.')
  .addOption(
    new Option('--backend <name>', 'default: webgpu where there is a device').choices(['cpu', 'webgpu']),
  )
  .addOption(
    new Option('--shapes <set>', 'default: paper on a GPU, small elsewhere').choices([
      'paper',
      'small',
      'long',
    ]),
  )
  .option('--peers <names>', 'tfjs (composed ops), or none', 'tfjs')
  .option('--kernels <names>', 'comma-separated: attention, decode', 'attention,decode')
  .option('--stock', "keep tfjs's own GPU device instead of ours", false)
  .option('--json <file>', 'also write the figures as JSON');
program.parse();
const flags = program.opts<Flags>();

const device = await chooseBackend(flags);
const set = flags.shapes ?? (device.isSoftware ? 'small' : 'paper');
const peers = flags.peers.split(',');
const kernels = flags.kernels.split(',');
console.log(`backend ${tf.getBackend()} on ${device.name}, shapes '${set}'`);

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

async function chooseBackend({ backend, stock }: Flags): Promise<{ name: string; isSoftware: boolean }> {
  const dawn = backend === 'cpu' ? undefined : await openDawn();
  if (dawn?.adapter) {
    await import('@tensorflow/tfjs-backend-webgpu');
    const { installDevice } = await import('../../src/webgpu.js');
    if (stock) await tf.setBackend('webgpu');
    else await installDevice();
    return dawn.adapter;
  }
  if (backend === 'webgpu') throw new Error(`bench: backend webgpu is not there: ${dawn?.reason ?? ''}`);
  await tf.setBackend('cpu');
  return { name: 'CPU', isSoftware: true };
}
