/** The browser demo, as a visitor uses it: in a headless Chromium, on each of its backends. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import type { Browser, BrowserContext, Page } from 'playwright-core';
import { serveDemo } from '../demo/browser/server.js';
import type { DemoServer } from '../demo/browser/server.js';
import type { DemoState } from '../demo/browser/state.js';
import { readTar, writeTar } from '../demo/browser/tar.js';
import { absentChromium, launchChromium } from './browser/chromium.js';

/** Ten quick steps also in software. */
const address = '?preset=tiny&batch=2&sequence=32&steps=10&heldout=2';
const trainingKernels = ['MLAAttention', 'MLADelta', 'MLAAttentionDq', 'MLAAttentionDkv'];

interface OpenPage {
  page: Page;
  /** Errors in the console, and exceptions that nothing caught. */
  errors: string[];
}

describe('demo', function () {
  this.timeout(120_000);
  const reason = absentChromium();
  if (reason) {
    it.skip(`Chromium: ${reason}`);
    return;
  }
  let server: DemoServer;
  let browser: Browser;

  before('serve', async () => {
    server = await serveDemo(0);
  });

  after(() => server?.close());

  describe('with WebGPU', () => {
    let context: BrowserContext;
    let open: OpenPage;
    let page: Page;

    before('open the page', async () => {
      browser = await launchChromium({ webgpu: true });
      context = await browser.newContext({ acceptDownloads: true });
      // forced: the adapter may be one in software
      open = await openPage(context, `${server.url}${address}&backend=webgpu`);
      ({ page } = open);
    });

    after(() => browser?.close());

    it('computes on WebGPU', async () => {
      const { backend, run, problems } = await stateOf(page);
      assert.deepEqual(problems, []);
      assert.equal(backend?.name, 'webgpu');
      assert.equal(backend?.isOwnDevice, true);
      assert.deepEqual(
        run?.plans.map(({ kernel }) => kernel),
        [...trainingKernels, 'MLADecode'],
      );
      assert.ok(run?.plans.every((plan) => plan.backend === 'webgpu' && plan.lane.length > 0));
      assert.match(await textOf(page, '#badge-text'), /^WebGPU · .+ · lane \w+, float32$/);
      assert.equal(await page.isVisible('#banner'), false);
    });

    it('dispatches our kernels', async () => {
      await page.click('#measure');
      await until(page, ({ measurement, activity }) => measurement !== undefined && activity === 'idle');
      const { measurement } = await stateOf(page);
      const callsOf = (costs: { kernel: string; calls: number }[] = []): Record<string, number> =>
        Object.fromEntries(
          costs.filter(({ kernel }) => kernel.startsWith('MLA')).map(({ kernel, calls }) => [kernel, calls]),
        );
      // one layer; a text of two bytes takes a prefill and one step over the cache
      assert.deepEqual(
        callsOf(measurement?.training),
        Object.fromEntries(trainingKernels.map((kernel) => [kernel, 1])),
      );
      assert.deepEqual(callsOf(measurement?.generation), {
        MLAAttention: 1,
        MLADecode: 1,
        MLACacheAppend: 2,
      });
    });

    it('trains ten steps, and the loss falls', async () => {
      await train(page, 10);
      const { losses, heldOut, run } = await stateOf(page);
      assert.equal(losses.length, 10);
      assert.ok(
        mean(losses.slice(-3)) < mean(losses.slice(0, 3)) - 0.5,
        `expected falling losses: ${losses.join()}`,
      );
      assert.ok(Number(heldOut.at(-1)?.bitsPerByte) < 8);
      assert.ok(Number(run?.unigramEntropy) > 4 && Number(run?.unigramEntropy) < 5);
      assert.equal(await page.isDisabled('#start'), true);
      await page.waitForSelector('#chart svg text:has-text("byte frequencies alone")');
    });

    it('goes on with the very same losses after save and restore', async () => {
      await page.click('#save');
      await until(page, ({ saved, activity }) => saved?.step === 10 && activity === 'idle');
      await train(page, 13);
      const expected = await lossesOf(page);
      page.once('dialog', (dialog) => void dialog.accept()); // the steps since then are not saved
      await page.click('#restore');
      await until(page, ({ losses, activity }) => losses.length === 10 && activity === 'idle');
      await train(page, 13);
      assert.deepEqual(await lossesOf(page), expected);
    });

    it('goes on with the very same losses after download and load', async () => {
      const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')]);
      assert.equal(download.suggestedFilename(), 'tfjs-mla-step-000013.tar');
      const archive = readFileSync(await download.path());
      await until(page, ({ activity }) => activity === 'idle');
      await train(page, 15);
      const expected = await lossesOf(page);
      page.once('dialog', (dialog) => void dialog.accept());
      await choose(page, archive);
      await until(page, ({ losses, activity }) => losses.length === 13 && activity === 'idle');
      await train(page, 15);
      assert.deepEqual(await lossesOf(page), expected);
    });

    it('says what is wrong with a truncated archive, and keeps the run', async () => {
      page.once('dialog', (dialog) => void dialog.accept());
      await choose(page, Buffer.from(new Uint8Array(1000).fill(7)));
      await page.waitForSelector('#problem:visible');
      assert.match(await textOf(page, '#problem-text'), /^Loading the files failed: the archive is corrupt/);
      await page.click('#dismiss');
      assert.equal((await lossesOf(page)).length, 15);
    });

    it('streams a text while training waits, stops on demand, and training goes on', async () => {
      await page.fill('#steps', '400');
      await page.click('#start');
      await until(page, ({ losses }) => losses.length > 15);
      await page.fill('#max-tokens', '1500');
      await page.press('#prompt', 'Enter');
      await until(
        page,
        ({ activity, generation }) => activity === 'generating' && (generation?.text.length ?? 0) > 3,
      );
      const during = await stateOf(page);
      assert.equal(during.isTraining, true);
      assert.equal(await page.isDisabled('#generate'), true);
      assert.equal(during.generation?.report.stopped, 'running');
      await page.click('#stop');
      await until(page, ({ generation }) => generation?.report.stopped === 'signal');
      const { generation } = await stateOf(page);
      assert.ok(Number(generation?.report.newTokens) < 1500);
      assert.ok(Number(generation?.report.prefillTokensPerSecond) > 0);
      assert.ok(Number(generation?.report.decodeTokensPerSecond) > 0);
      assert.ok((await textOf(page, '#chat')).includes(generation?.text ?? '?'));
      // 2 heads of (8 + 4) + 8 against a latent of 16 and a rotary key of 4
      assert.equal(Number(generation?.report.perHeadCacheBytes) / Number(generation?.report.cacheBytes), 2);
      const steps = (await lossesOf(page)).length;
      await page.waitForFunction((before) => window.tfjsMlaDemo.losses.length > before, steps);
      await page.click('#start');
      await until(page, ({ activity, isTraining }) => activity === 'idle' && !isTraining);
    });

    it('writes no errors to the console', () => assert.deepEqual(open.errors, []));

    it('prefers wasm to an adapter in software, and says so', async function () {
      if (!(await stateOf(page)).backend?.isSoftware) this.skip();
      const unforced = await openPage(context, server.url + address);
      assert.equal((await stateOf(unforced.page)).backend?.name, 'wasm');
      assert.match(
        await textOf(unforced.page, '#banner-text'),
        /^The only WebGPU adapter, .+, computes in software/,
      );
      assert.equal(await unforced.page.isVisible('#banner'), true);
      await unforced.page.close();
    });

    it('says so when the device is lost', async () => {
      const session = await browser.newBrowserCDPSession();
      await session.send('Browser.crashGpuProcess'); // as a driver's reset would
      await page.waitForSelector('#lost:visible');
      assert.match(await textOf(page, '#lost-text'), /Step 10 is saved in this browser: reload the page/);
      assert.equal(await page.isDisabled('#generate'), true);
      await Promise.all([page.waitForEvent('load'), page.click('#reload')]);
      await untilReady(page);
      await page.click('#restore');
      await until(page, ({ losses, activity }) => losses.length === 10 && activity === 'idle');
    });
  });

  describe('without WebGPU', () => {
    let open: OpenPage;

    before('open the page', async () => {
      browser = await launchChromium({ webgpu: false });
      open = await openPage(await browser.newContext(), `${server.url}?steps=12&heldout=2`);
    });

    after(() => browser?.close());

    it('says what is missing, and computes on wasm with our kernels', async () => {
      const { backend, run, problems } = await stateOf(open.page);
      assert.deepEqual(problems, []);
      assert.equal(backend?.name, 'wasm');
      assert.equal(backend?.passedOver.length, 1);
      assert.equal(run?.preset, 'small');
      assert.deepEqual(
        run?.plans.map(({ kernel, backend }) => [kernel, backend]),
        [...trainingKernels, 'MLADecode'].map((kernel) => [kernel, 'wasm']),
      );
      // the page is isolated: the kernels run on shared memory, on a thread for each processor
      for (const { tile, cacheKey } of run?.plans ?? []) {
        assert.match(cacheKey, /^shared/);
        assert.equal(tile.THREADS, Math.min(8, availableParallelism()));
      }
      assert.match(await textOf(open.page, '#banner'), /This browser .+WebGPU.+What gives you WebGPU/s);
      assert.equal(await open.page.isVisible('#banner'), true);
      assert.match(
        await textOf(open.page, '#badge-text'),
        /^WebAssembly SIMD · (one thread|\d threads) · lane (relaxed )?SIMD, float32$/,
      );
    });

    it("runs the threaded build of tfjs's kernels, in a worker of an isolated page", async () => {
      const [worker, ...threads] = open.page.workers();
      assert.match(worker.url(), /\/worker\.js$/);
      assert.equal(await worker.evaluate(() => self.crossOriginIsolated), true);
      assert.ok(threads.length > 0);
    });

    it('trains and generates', async () => {
      const { page } = open;
      await page.fill('#sample-every', '6');
      await page.click('#start');
      await until(page, ({ losses, activity }) => losses.length === 12 && activity === 'idle');
      const { losses } = await stateOf(page);
      assert.ok(losses[11] < losses[0] - 0.5, `expected falling losses: ${losses.join()}`);
      assert.equal(await page.locator('#samples li').count(), 2);
      await page.fill('#max-tokens', '40');
      await page.click('#generate');
      await until(page, ({ generation }) => generation?.report.stopped === 'length');
      assert.equal((await stateOf(page)).generation?.report.newTokens, 40);
    });

    it('goes on with the very same losses in a new page, after save and restore', async () => {
      const { page } = open;
      await page.click('#save');
      await until(page, ({ saved, activity }) => saved?.step === 12 && activity === 'idle');
      await train(page, 15);
      const expected = await lossesOf(page);
      await page.reload();
      await untilReady(page);
      assert.match(await textOf(page, '#saved'), /^Saved in this browser: step 12, /);
      await page.click('#restore');
      await until(page, ({ losses, activity }) => losses.length === 12 && activity === 'idle');
      await train(page, 15);
      assert.deepEqual(await lossesOf(page), expected);
    });

    it('says what is wrong with sizes that cannot be, and keeps the run', async () => {
      const { page } = open;
      page.once('dialog', (dialog) => void dialog.accept());
      await page.click('#new-run');
      await until(page, ({ losses, activity }) => losses.length === 0 && activity === 'idle');
      await page.evaluate(() => document.getElementById('sequence')?.removeAttribute('max'));
      await page.fill('#sequence', '4096');
      await page.press('#sequence', 'Tab');
      await page.waitForSelector('#problem:visible');
      assert.match(
        await textOf(page, '#problem-text'),
        /^Making the model failed: .*max_position_embeddings=2048/,
      );
      assert.equal(await page.inputValue('#sequence'), '128');
    });

    it('says what is wrong with the address', async () => {
      const { page } = await openPage(open.page.context(), `${server.url}?preset=huge`);
      assert.match(await textOf(page, '#problem-text'), /preset must be one of tiny, .*, got huge/);
      await page.close();
    });

    it('writes no errors to the console', () => assert.deepEqual(open.errors, []));

    it('computes on the cpu where the address asks for it', async () => {
      const { page, errors } = await openPage(open.page.context(), `${server.url}${address}&backend=cpu`);
      assert.match(await textOf(page, '#badge-text'), /^CPU · .+ · lane reference, float32$/);
      assert.equal(await page.isVisible('#banner'), false);
      await train(page, 2);
      assert.deepEqual(errors, []);
      await page.close();
    });

    it('computes on the cpu where wasm does not start, and says so', async () => {
      const context = await browser.newContext();
      await context.route('**/*.wasm', (route) => route.abort());
      const { page } = await openPage(context, server.url + address);
      assert.equal((await stateOf(page)).backend?.name, 'cpu');
      assert.match(
        await textOf(page, '#banner-text'),
        /WebGPU.+ WebAssembly backend did not start: .+JavaScript/,
      );
      await train(page, 2);
      await context.close();
    });
  });
});

describe('demo: tar', () => {
  const files = new Map([
    ['step-000001/config.json', new TextEncoder().encode('{"a": 1}')],
    ['step-000001/model.safetensors', new Uint8Array(1024).fill(5)],
  ]);

  it('is read by tar', async () => {
    const archive = new Uint8Array(await writeTar(files, new Date(0)).arrayBuffer());
    const { stdout, status } = spawnSync('tar', ['-t', '-f', '-'], { input: archive, encoding: 'utf8' });
    assert.equal(status, 0);
    assert.deepEqual(stdout.trim().split('\n'), [...files.keys()]);
  });

  it('is read back, and refused when it is cut short', async () => {
    const archive = new Uint8Array(await writeTar(files, new Date(0)).arrayBuffer());
    const [config, model] = files.values();
    assert.deepEqual(
      [...readTar(archive)],
      [
        ['config.json', config],
        ['model.safetensors', model],
      ],
    );
    assert.throws(() => readTar(archive.slice(0, 1600)), /cut short: step-000001\/model\.safetensors/);
    assert.throws(() => readTar(new Uint8Array(0)), /holds no files/);
  });
});

async function openPage(context: BrowserContext, url: string): Promise<OpenPage> {
  const page = await context.newPage();
  const errors: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text());
  });
  page.on('pageerror', ({ message }) => errors.push(message));
  await page.goto(url);
  await untilReady(page);
  return { page, errors };
}

/** Or ended, with a problem. */
async function untilReady(page: Page): Promise<void> {
  await until(page, ({ activity, run, problems }) =>
    activity === 'idle' ? run !== undefined : activity === 'ended' && problems.length > 0,
  );
}

function until(page: Page, holds: (state: DemoState) => boolean): Promise<unknown> {
  return page.waitForFunction(`(${holds.toString()})(window.tfjsMlaDemo)`, undefined, { timeout: 90_000 });
}

function stateOf(page: Page): Promise<DemoState> {
  return page.evaluate(() => window.tfjsMlaDemo);
}

async function lossesOf(page: Page): Promise<number[]> {
  return (await stateOf(page)).losses;
}

async function textOf(page: Page, selector: string): Promise<string> {
  return (await page.textContent(selector)) ?? '';
}

/** Up to this step in all, without samples. */
async function train(page: Page, steps: number): Promise<void> {
  await page.fill('#sample-every', '0');
  await page.fill('#steps', String(steps));
  await page.click('#start');
  await page.waitForFunction(
    (total) => window.tfjsMlaDemo.losses.length === total && window.tfjsMlaDemo.activity === 'idle',
    steps,
    { timeout: 90_000 },
  );
}

/** Through the picker that the button opens. */
async function choose(page: Page, archive: Buffer): Promise<void> {
  const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.click('#load')]);
  await chooser.setFiles({ name: 'checkpoint.tar', mimeType: 'application/x-tar', buffer: archive });
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
