/** Bundles the page and serves it, with the text to train on, to this machine only. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';
import { stateOfTheUnion } from '../node/stateOfTheUnion.js';

export interface DemoServer {
  readonly url: string;
  close(): void;
}

interface Answer {
  readonly type: string;
  readonly body: string | Uint8Array;
}

const host = '127.0.0.1';
const folder = fileURLToPath(new URL('.', import.meta.url));
const wasmFolder = dirname(createRequire(import.meta.url).resolve('@tensorflow/tfjs-backend-wasm'));
/** The variants of tfjs's kernels, of which the page takes what the browser can. */
const wasmFiles = ['', '-simd', '-threaded-simd'].map((variant) => `tfjs-backend-wasm${variant}.wasm`);

/** Isolates the page from other origins: only then has it shared memory, which tfjs's threads need. */
const isolation = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
  'cross-origin-resource-policy': 'same-origin',
};

/** Port 0 takes any free one. Rejects with EADDRINUSE if the port is taken. */
export async function serveDemo(port: number): Promise<DemoServer> {
  let answers: Map<string, Answer> | undefined;
  const server = createServer(({ url = '/' }, response) => {
    const answer = answers?.get(url.split('?')[0]);
    const headers = {
      ...isolation,
      'content-type': answer?.type ?? 'text/plain; charset=utf-8',
      'cache-control': 'no-store', // always the newest bundle, also after a change of the code
    };
    response.writeHead(answer ? 200 : 404, headers).end(answer?.body ?? `there is no ${url}`);
  });
  const close = (): void => {
    server.close();
    server.closeAllConnections();
  };
  await listen(server, port); // first: a port that is taken shows at once
  try {
    answers = await prepareAnswers();
  } catch (error) {
    close();
    throw error;
  }
  return { url: `http://${host}:${(server.address() as AddressInfo).port}/`, close };
}

async function prepareAnswers(): Promise<Map<string, Answer>> {
  const [html, css, binaries, scripts] = await Promise.all([
    readFile(`${folder}index.html`),
    readFile(`${folder}page.css`),
    Promise.all(wasmFiles.map((name) => readFile(join(wasmFolder, name)))),
    bundle(),
  ]);
  return new Map([
    ['/', { type: 'text/html; charset=utf-8', body: html }],
    ['/page.css', { type: 'text/css; charset=utf-8', body: css }],
    ['/texts.json', { type: 'application/json', body: JSON.stringify(stateOfTheUnion()) }],
    ...wasmFiles.map((name, index): [string, Answer] => [
      `/wasm/${name}`,
      { type: 'application/wasm', body: binaries[index] },
    ]),
    ...scripts,
  ]);
}

/** The page and its worker, a file each. An import of a Node module is an error here. */
async function bundle(): Promise<[string, Answer][]> {
  const { outputFiles } = await esbuild.build({
    entryPoints: ['page.ts', 'worker.ts'].map((name) => folder + name),
    outdir: folder,
    bundle: true,
    format: 'esm',
    target: 'es2022',
    minify: false, // tfjs looks at constructors' names
    keepNames: false, // and starts its threads with a function's text, which a helper for names would break
    sourcemap: 'linked',
    write: false,
    logLevel: 'silent', // errors are thrown, with their text
  });
  return outputFiles.map(({ path, contents }) => {
    const type = path.endsWith('.map') ? 'application/json' : 'text/javascript; charset=utf-8';
    return [`/${path.slice(folder.length)}`, { type, body: contents }];
  });
}

function listen(server: Server, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
}
