/** Loads tfjs-node, which brings tfjs's 'tensorflow' backend. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { findBackendFactory } from '@tensorflow/tfjs-core';

const require = createRequire(import.meta.url);
const packageName = '@tensorflow/tfjs-node';

/**
 * Loads tfjs-node unless the 'tensorflow' backend is there already. Throws, in a sentence that says what mends it, if the
 * package, its libtensorflow or its binding is missing.
 */
export function loadTfjsNode(): void {
  if (findBackendFactory('tensorflow')) return;
  const folder = packageFolder();
  if (!existsSync(join(folder, 'deps/lib'))) {
    throw new Error(
      `tfjs-mla/node: ${packageName} has no libtensorflow: run 'npx tfjs-mla setup-tensorflow', or its own install script`,
    );
  }
  // TensorFlow's notes on its own build
  process.env.TF_CPP_MIN_LOG_LEVEL ??= '1';
  mendNode();
  require(packageName);
}

function packageFolder(): string {
  try {
    return dirname(require.resolve(`${packageName}/package.json`));
  } catch (error) {
    throw new Error(
      `tfjs-mla/node: ${packageName} is not installed: run 'npm install --ignore-scripts ${packageName}@4.22.0' and 'npx tfjs-mla setup-tensorflow'`,
      { cause: error },
    );
  }
}

/** tfjs-node 4.22 calls two functions that Node 23 took away. */
function mendNode(): void {
  const util = require('node:util') as Record<string, unknown>;
  util.isNullOrUndefined ??= (value: unknown): boolean => value === null || value === undefined;
  util.isArray ??= (value: unknown): boolean => Array.isArray(value);
}
