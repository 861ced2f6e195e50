/** The page's side: runs the tests that the bundle has defined, and hands each result to Node. */
import { mochaHooks } from '../support/hooks.js';

/** What happened to one test; neither isPending nor failure: it passed. */
export interface PageResult {
  readonly titles: string[];
  readonly isPending: boolean;
  readonly failure?: { readonly message: string; stack: string };
}

/** Both are put on the page's window by runInPage.ts. */
declare const reportResult: (result: PageResult) => Promise<void>;
declare const reportEnd: () => Promise<void>;

// Not in mocha's types: its browser build, and that alone, takes root hooks after setup().
(mocha as BrowserMocha & { rootHooks(hooks: Mocha.RootHookObject): void }).rootHooks(mochaHooks);
const runner = mocha.run(() => void reportEnd());
runner.on('pass', (test) => void reportResult({ titles: test.titlePath(), isPending: false }));
runner.on('pending', (test) => void reportResult({ titles: test.titlePath(), isPending: true }));
runner.on('fail', (test, error: Error) => {
  const { message, stack = '' } = error;
  void reportResult({ titles: test.titlePath(), isPending: false, failure: { message, stack } });
});
