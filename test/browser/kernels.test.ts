/** Runs test files once more in a real browser, and reports each of their tests here. */
import Mocha from 'mocha';
import { absentChromium } from './chromium.js';
import type { PageResult } from './page.js';
import { runInPage } from './runInPage.js';
import type { PageOptions, PageRun } from './runInPage.js';

const kernelFiles = [
  'smoke',
  'mlaAttention',
  'mlaDelta',
  'mlaAttentionDq',
  'mlaAttentionDkv',
  'mlaDecode',
  'mlaDecodeDq',
  'mlaDecodeDkv',
  'mlaCacheAppend',
];

/** To run one more file in the browser, add its line; it may import no Node modules. */
const files = [
  ...kernelFiles,
  'latentCache',
  'packedCache',
  'mergeStates',
  'gradients',
  'profile',
  'pipeline',
  'golden',
  'dotProductAttention',
  'explain',
  'tune',
];

describe('Chromium', () => {
  inPage(files, { webgpu: true, isIsolated: false });
});

/** tfjs's threaded wasm build, and our threads on its memory. */
describe('Chromium, cross-origin isolated', () => {
  inPage([...kernelFiles, 'packedCache', 'explain', 'threads'], { webgpu: false, isIsolated: true });
});

function inPage(names: string[], options: PageOptions): void {
  const reason = absentChromium();
  if (reason) {
    it.skip(`Chromium: ${reason}`);
    return;
  }
  let run: PageRun;

  before('run in page', async function () {
    this.timeout(600_000);
    run = await runInPage(
      names.map((name) => `test/${name}.test.ts`),
      options,
    );
    const suite = this.test?.parent;
    for (const result of run.results) suite?.addTest(testFor(result));
  });

  if (options.webgpu) {
    it('offers WebGPU', () => {
      if (!run.hasWebgpu) throw new Error('expected a WebGPU adapter, got none');
    });
  }

  it('writes no errors to the console', () => {
    if (run.consoleErrors.length > 0) throw new Error(run.consoleErrors.join('\n'));
  });
}

function testFor({ titles, isPending, failure }: PageResult): Mocha.Test {
  const title = titles.join(' ');
  if (isPending) return new Mocha.Test(title);
  return new Mocha.Test(title, () => {
    if (failure) throw Object.assign(new Error(failure.message), { stack: failure.stack });
  });
}
