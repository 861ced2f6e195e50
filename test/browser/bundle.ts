/** Bundles mocha test files for a page. A file x.ts that needs Node has a twin x.browser.ts, which is taken instead. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import * as esbuild from 'esbuild';

const root = fileURLToPath(new URL('../..', import.meta.url));

const browserTwins: esbuild.Plugin = {
  name: 'browser-twins',
  setup(build) {
    build.onResolve({ filter: /^\.{1,2}\/.*\.js$/ }, ({ path, resolveDir }) => {
      const twin = join(resolveDir, path.replace(/\.js$/, '.browser.ts'));
      return existsSync(twin) ? { path: twin } : undefined;
    });
  },
};

export interface Bundle {
  readonly code: string;
  readonly sourceMap: string;
}

/** `testFiles`: paths from the repository's root. An import of a Node module is an error here. */
export async function bundleTests(testFiles: readonly string[]): Promise<Bundle> {
  const imports = [...testFiles, 'test/browser/page.ts'].map((file) => `import './${file}';`);
  const { outputFiles } = await esbuild.build({
    stdin: { contents: imports.join('\n'), resolveDir: root },
    outfile: 'tests.js',
    bundle: true,
    format: 'esm',
    target: 'es2022',
    sourcemap: 'external',
    ignoreAnnotations: true, // package.json says that all but the doors is free of side effects: tests are not
    write: false,
    logLevel: 'silent', // errors are thrown, with their text
    plugins: [browserTwins],
  });
  const textOf = (suffix: string) => outputFiles.find(({ path }) => path.endsWith(suffix))?.text ?? '';
  return { code: textOf('.js'), sourceMap: textOf('.map') };
}
