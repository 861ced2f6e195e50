/**
 * npm run test:python: the tests of python/, on a TensorFlow of their own that is fetched once. Without Python and pip, or a
 * TensorFlow for them, it says so and runs nothing.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';

const root = join(import.meta.dirname, '../..');
const wanted = ['tensorflow-cpu==2.18.1', 'safetensors==0.8.0'];
const packages = join(root, 'node_modules/.cache/python-packages');

function python(args: string[], paths: string[] = []): number | null {
  const env = { ...process.env, PYTHONPATH: paths.join(':'), TF_CPP_MIN_LOG_LEVEL: '2' };
  return spawnSync('python3', args, { cwd: join(root, 'python'), env, stdio: 'inherit' }).status;
}

/** In a folder that has its name only when it is whole. */
function fetchPackages(): boolean {
  if (existsSync(packages)) return true;
  const unfinished = `${packages}.part`;
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished, { recursive: true });
  if (python(['-m', 'pip', 'install', '--quiet', '--target', unfinished, ...wanted]) !== 0) return false;
  renameSync(unfinished, packages);
  return true;
}

if (fetchPackages()) {
  process.exitCode = python(['-m', 'unittest', 'discover', '-v', '-s', 'tests'], ['.', packages]) ?? 1;
} else {
  console.log(`python: skipped: python3 with pip and ${wanted.join(', ')} are needed`);
}
