/** Serves the page of the browser tests on 127.0.0.1: the page itself, mocha, the bundle, golden files, tfjs's wasm. */
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { findGolden } from '../support/files.js';

export interface PageServer {
  readonly url: string;
  close(): void;
}

const html = `<!doctype html>
<meta charset="utf-8" />
<link rel="icon" href="data:," />
<script src="/mocha.js"></script>
<script>mocha.setup({ ui: 'bdd', reporter: function () {}, timeout: 60000 });</script>
<script type="module" src="/tests.js"></script>
`;
const require = createRequire(import.meta.url);
const mochaFile = require.resolve('mocha/mocha.js');
const wasmFolder = dirname(require.resolve('@tensorflow/tfjs-backend-wasm'));

/** Lets a page share memory with workers. */
const isolation = {
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-embedder-policy': 'require-corp',
};

/** `isIsolated`: the page is cross-origin isolated. */
export async function servePage(testCode: string, isIsolated: boolean): Promise<PageServer> {
  const server = createServer((request, response) => {
    void answer(request.url ?? '/', testCode).then(({ status, type, body }) => {
      response.writeHead(status, { 'content-type': type, ...(isIsolated && isolation) }).end(body);
    });
  });
  const url = await listen(server);
  return { url, close: () => server.close() };
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string | Buffer;
}

async function answer(path: string, testCode: string): Promise<Answer> {
  if (path === '/') return { status: 200, type: 'text/html', body: html };
  if (path === '/tests.js') return { status: 200, type: 'text/javascript', body: testCode };
  if (path === '/mocha.js') return { status: 200, type: 'text/javascript', body: await readFile(mochaFile) };
  const [, wasmFile] = /^\/wasm\/([\w-]+\.wasm)$/.exec(path) ?? [];
  if (wasmFile) {
    return { status: 200, type: 'application/wasm', body: await readFile(join(wasmFolder, wasmFile)) };
  }
  const golden = path.startsWith('/golden/') ? findGolden(path.slice('/golden/'.length)) : undefined;
  if (golden) return { status: 200, type: 'application/octet-stream', body: await readFile(golden) };
  return { status: 404, type: 'text/plain', body: `no ${path}` };
}

async function listen(server: Server): Promise<string> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}
