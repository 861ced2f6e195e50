/** npm run demo: the browser demo on this machine. --help tells the rest. */
import { Command, InvalidArgumentError } from 'commander';
import { serveDemo } from './server.js';
import type { DemoServer } from './server.js';

const portsToTry = 20;

const notes = `
The page trains in the browser that opens it: with WebGPU where there is a graphics
card for it, else on the processor, with WebAssembly.
Its address takes parameters: ?preset=tiny|small|medium|large &batch=N &sequence=N &steps=N &seed=N
&heldout=N (windows of the text kept aside that are scored at a time) &backend=webgpu|wasm|cpu

Examples:
  npm run demo
  npm run demo -- --port 3000
`;

const { port } = new Command('npm run demo --')
  .description(
    'Serves a page that trains a small DeepSeek-style model in your browser and generates with it.',
  )
  .option('--port <n>', 'port on 127.0.0.1; the next free one if it is taken', portNumber, 8080)
  .addHelpText('after', notes)
  .parse()
  .opts<{ port: number }>();

try {
  const server = await serveOnFreePort(port);
  console.log(`the demo is at ${server.url}  (Ctrl-C ends it)`);
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => server.close());
} catch (error) {
  console.error(`error: ${(error as Error).message}`);
  process.exitCode = 1;
}

async function serveOnFreePort(first: number): Promise<DemoServer> {
  const last = Math.min(first + portsToTry - 1, 65535);
  for (let candidate = first; candidate <= last; candidate++) {
    try {
      return await serveDemo(candidate);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
    }
  }
  throw new Error(`ports ${first} to ${last} are all taken: choose another with --port`);
}

function portNumber(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value > 65535) {
    throw new InvalidArgumentError('Expected a port from 0 to 65535.');
  }
  return value;
}
