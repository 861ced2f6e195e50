/** The ops with tfjs-core and one backend alone, in a process of their own: no tfjs-layers, no gradients of tfjs's ops. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { CoreAloneReport } from './support/coreAlone.js';
import { expectEqual, expectTrue } from './support/expect.js';

describe('tfjs-core and the cpu backend alone', () => {
  let report: CoreAloneReport;

  before(function () {
    this.timeout(30_000);
    const script = fileURLToPath(new URL('support/coreAlone.ts', import.meta.url));
    const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', script], {
      encoding: 'utf8',
    });
    if (status !== 0) throw new Error(`the process ended with ${status}: ${stderr}`);
    report = JSON.parse(stdout) as CoreAloneReport;
  });

  it('have no gradients but ours', () => {
    expectEqual(report.gradientsOfTfjs, []);
    expectEqual(report.backends, ['cpu']);
  });

  for (const op of ['mlaAttention', 'mlaDecode', 'mergeStates', 'dotProductAttention'] as const) {
    it(`give the gradient of ${op}`, () => {
      const { slope, quotient } = report.slopes[op];
      expectTrue(Math.abs(quotient) > 1e-3, `the quotient of differences must not vanish, got ${quotient}`);
      expectTrue(
        Math.abs(slope - quotient) < 5e-3 * Math.abs(quotient),
        `expected a slope near ${quotient}, got ${slope}`,
      );
    });
  }

  it('append to a LatentCache', () => {
    expectEqual(report.cacheLengths, [3]);
    expectEqual(report.tensorsLeft, 0, 'tensors left');
  });
});
