/** Bundles the page and serves it, with the text to train on, to this machine only. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
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

/** Port 0 takes any free one. Rejects with EADDRINUSE if the port is taken. */
export async function serveDemo(port: number): Promise<DemoServer> {
  let answers: Map<string, Answer> | undefined;
  const server = createServer(({ url = '/' }, response) => {
    const answer = answers?.get(url.split('?')[0]);
    // always the newest bundle, also after a change of the code
    const headers = {
      'content-type': answer?.type ?? 'text/plain; charset=utf-8',
      'cache-control': 'no-store',
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
  const [html, css, scripts] = await Promise.all([
    readFile(`${folder}index.html`),
    readFile(`${folder}page.css`),
    bundle(),
  ]);
  return new Map([
    ['/', { type: 'text/html; charset=utf-8', body: html }],
    ['/page.css', { type: 'text/css; charset=utf-8', body: css }],
    ['/texts.json', { type: 'application/json', body: JSON.stringify(stateOfTheUnion()) }],
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
    minify: true,
    keepNames: true, // tfjs looks at constructors' names
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
