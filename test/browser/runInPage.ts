/** Runs mocha test files in a page of headless Chromium. */
import { SourceMap } from 'node:module';
import type { SourceMapPayload } from 'node:module';
import type { Page } from 'playwright-core';
import { bundleTests } from './bundle.js';
import { launchChromium } from './chromium.js';
import type { PageResult } from './page.js';
import { servePage } from './server.js';

export interface PageRun {
  readonly results: PageResult[];
  /** What the page wrote to console.error, and exceptions that nothing caught. */
  readonly consoleErrors: string[];
  readonly hasWebgpu: boolean;
}

export interface PageOptions {
  readonly webgpu: boolean;
  /** Cross-origin isolated: tfjs's wasm backend has threads there. */
  readonly isIsolated: boolean;
}

/** `testFiles`: paths from the repository's root. */
export async function runInPage(
  testFiles: readonly string[],
  { webgpu, isIsolated }: PageOptions,
): Promise<PageRun> {
  const { code, sourceMap } = await bundleTests(testFiles);
  const server = await servePage(code, isIsolated);
  const browser = await launchChromium({ webgpu });
  try {
    return await collect(await browser.newPage(), server.url, sourceMapper(sourceMap));
  } finally {
    await browser.close();
    server.close();
  }
}

async function collect(page: Page, url: string, toSources: StackMapper): Promise<PageRun> {
  const results: PageResult[] = [];
  const consoleErrors: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') consoleErrors.push(message.text());
  });
  await page.exposeFunction('reportResult', (result: PageResult) => {
    if (result.failure) result.failure.stack = toSources(result.failure.stack);
    results.push(result);
  });
  await new Promise<void>((resolve, reject) => {
    // Until mocha runs, that is a test file that does not load; from then on mocha has its own handler.
    page.on('pageerror', (error) => reject(Object.assign(error, { stack: toSources(error.stack ?? '') })));
    page.on('crash', () => reject(new Error('runInPage: the page crashed')));
    page
      .exposeFunction('reportEnd', resolve)
      .then(() => page.goto(url))
      .catch(reject);
  });
  const hasWebgpu = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
  return { results, consoleErrors, hasWebgpu };
}

type StackMapper = (stack: string) => string;

/** Puts source files and lines in place of positions in the bundle. */
function sourceMapper(json: string): StackMapper {
  const map = new SourceMap(JSON.parse(json) as SourceMapPayload);
  return (stack) =>
    stack.replace(/[^\s(]*tests\.js:(\d+):(\d+)/g, (position: string, line: string, column: string) => {
      const entry = map.findEntry(Number(line) - 1, Number(column) - 1);
      return 'originalSource' in entry ? `${entry.originalSource}:${entry.originalLine + 1}` : position;
    });
}
