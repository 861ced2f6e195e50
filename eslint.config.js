import { join } from 'node:path';
import { createTypeScriptImportResolver } from 'eslint-import-resolver-typescript';
import { importX } from 'eslint-plugin-import-x';
import { defineConfig, globalIgnores } from 'eslint/config';
import tseslint from 'typescript-eslint';

/** Who may import whom, as in README.md. An area may always import itself, test/ may import anything. */
const mayImport = {
  'src/core/**': [],
  'src/ops/**': ['src/core/**'],
  'src/cache/**': ['src/core/**'],
  'src/device/**': ['src/core/**', 'kernels/webgpu/**'],
  'src/cli/**': [
    'src/core/**',
    'src/device/{tfjsNode,chooseTfjsNode}.ts',
    'kernels/wasm/compiled*',
    'kernels/tensorflow/native*',
  ],
  'src/layers/**': ['src/core/**', 'src/ops/**', 'src/cache/**'],
  'src/models/**': ['src/core/**', 'src/ops/**', 'src/cache/**', 'src/layers/**'],
  'src/*.ts': ['src/*/**', 'gradients/**', 'kernels/**'],
  'gradients/**': ['src/core/**'],
  'kernels/cpu/**': ['src/core/**'],
  'kernels/webgpu/**': ['src/core/**'],
  'kernels/wasm/**': ['src/core/**'],
  'kernels/cuda/**': [],
  'kernels/tensorflow/**': ['src/core/**', 'kernels/cuda/**'],
  // Dawn in Node is no part of the package, which runs on whatever WebGPU it finds
  'demo/**': ['src/*.ts', 'src/device/{node,adapter}.ts'],
};
const inRepository = (area) => join(import.meta.dirname, area);
const zones = Object.entries(mayImport).map(([area, allowed]) => ({
  target: inRepository(area),
  from: inRepository('{src,gradients,kernels,demo,test}/**'),
  except: [area, ...allowed].map(inRepository),
  message: `${area} may import only ${allowed.join(', ') || 'itself'}.`,
}));

const deepImports = {
  regex: '^@tensorflow/[^/]+/',
  message: 'Import the package itself: its dist/ folder breaks in Node and duplicates backends in bundles.',
};
const backendValues = {
  regex: '^@tensorflow/tfjs-(backend-wasm|backend-webgpu|node|node-gpu)$',
  allowTypeImports: true,
  message: 'Types only: the backend reaches a kernel as an argument.',
};
const allButTfjsCore = {
  regex: String.raw`^(?!\.{1,2}/|@tensorflow/tfjs-core$)`,
  message: 'src/core imports @tensorflow/tfjs-core and nothing else.',
};
const restrictImports = (...patterns) => ({
  '@typescript-eslint/no-restricted-imports': ['error', { patterns }],
});

export default defineConfig(
  globalIgnores([
    'dist/',
    'runs/',
    'test/golden/',
    'kernels/wasm/assembly/',
    'kernels/wasm/binaries.ts',
    'native/',
  ]),
  tseslint.configs.recommendedTypeChecked,
  {
    plugins: { 'import-x': importX },
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    settings: {
      'import-x/extensions': ['.ts'],
      'import-x/parsers': { '@typescript-eslint/parser': ['.ts'] },
      'import-x/resolver-next': [createTypeScriptImportResolver()],
    },
    rules: {
      eqeqeq: 'error',
      'import-x/no-cycle': 'error',
      'import-x/no-default-export': 'error',
      'import-x/no-restricted-paths': ['error', { zones }],
      '@typescript-eslint/consistent-type-definitions': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/no-non-null-assertion': 'error',
      '@typescript-eslint/require-await': 'off', // an async function may stand where a promise is asked for
      '@typescript-eslint/restrict-template-expressions': [
        'error',
        { allowNumber: true, allowBoolean: true },
      ],
      ...restrictImports(deepImports),
    },
  },
  { files: ['src/**', 'gradients/**', 'kernels/**'], rules: restrictImports(deepImports, backendValues) },
  { files: ['src/device/**', 'src/webgpu.ts'], rules: restrictImports(deepImports) },
  { files: ['src/core/**'], rules: restrictImports(allButTfjsCore) },
  {
    files: ['*.js'],
    extends: [tseslint.configs.disableTypeChecked],
    rules: { 'import-x/no-default-export': 'off' },
  },
);
