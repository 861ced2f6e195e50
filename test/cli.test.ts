/** The command line, as a process: what it says of itself. */
import { useApp } from './support/commandLine.js';
import { expectEqual, expectTrue } from './support/expect.js';

describe('tfjs-mla', () => {
  const app = useApp();

  for (const args of [[], ['--help']]) {
    it(`[${args.join()}] names both commands`, () => {
      const { status, stdout } = app.run(args);
      expectEqual(status, 0);
      for (const command of ['setup-tensorflow', 'doctor']) expectTrue(stdout.includes(command), stdout);
    });
  }

  it('names the flags of setup-tensorflow', () => {
    const { status, stdout } = app.run(['setup-tensorflow', '--help']);
    expectEqual(status, 0);
    const flags = ['--gpu', '--version', '--wheel', '--undo'];
    for (const flag of flags) expectTrue(stdout.includes(`\n  ${flag}`), stdout);
  });

  it('says what doctor does', () => {
    const { status, stdout } = app.run(['doctor', '--help']);
    expectEqual(status, 0);
    expectTrue(stdout.startsWith('usage: tfjs-mla doctor'), stdout);
  });

  it('is named by the error about an unknown command, and a flag', () => {
    app.expectFailure(
      ['mend'],
      'tfjs-mla: expected setup-tensorflow or doctor, got mend; see npx tfjs-mla --help',
    );
    app.expectFailure(['doctor', '--all'], "Unknown option '--all'");
  });
});
