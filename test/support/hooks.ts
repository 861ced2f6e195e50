/** Mocha's root hooks, for Node and for the page: a GPU error fails the test that caused it. */
import { keepTuningIn } from '../../src/core/tuner.js';
import { absentDevices, availableDevices } from './devices.js';
import { takeGpuErrors } from './gpuErrors.js';

export const mochaHooks: Mocha.RootHookObject = {
  beforeAll() {
    keepTuningIn(undefined); // what was tuned on this machine before is no part of the tests, and stays as it is
    console.log(
      `devices: ${availableDevices()
        .map(({ name }) => name)
        .join(', ')}`,
    );
    for (const { name, reason } of absentDevices()) console.log(`skipped: ${name}: ${reason}`);
  },

  beforeEach(this: Mocha.Context) {
    if (this.currentTest) failOnGpuErrors(this.currentTest);
  },

  async afterAll() {
    await throwGpuErrors();
  },
};

/** Wraps the test itself: when a root afterEach throws, mocha gives up the whole run. */
function failOnGpuErrors(test: Mocha.Test): void {
  const run = test.fn as Mocha.AsyncFunc;
  test.fn = async function (this: Mocha.Context) {
    try {
      await run.call(this);
    } catch (error) {
      await throwGpuErrors(error); // the likelier cause goes first
      throw error;
    }
    await throwGpuErrors();
  };
}

async function throwGpuErrors(cause?: unknown): Promise<void> {
  const errors = await takeGpuErrors();
  if (errors.length > 0) throw new Error(`GPU errors: ${errors.join('\n')}`, { cause });
}
