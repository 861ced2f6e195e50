/** What python3 is asked for: the TensorFlow it has, and downloads by pip, which knows the user's index and proxy. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { stop } from './progress.js';
import { libraries } from './tensorflowWheel.js';

export interface PythonTensorflow {
  /** The folder that holds the folder `tensorflow`. */
  readonly folder: string;
  readonly version: string;
  readonly cuda: boolean;
}

/** Found without being imported, which takes seconds. */
const finder = `
import importlib.metadata, importlib.util, json, os
found = importlib.util.find_spec('tensorflow')
if found and found.origin:
    folder = os.path.dirname(found.origin)
    version = None
    for name in ('tensorflow', 'tensorflow-cpu'):
        try: version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError: pass
    info = os.path.join(folder, 'python', 'platform', 'build_info.py')
    cuda = os.path.exists(info) and "'is_cuda_build', True" in open(info).read()
    print(json.dumps({'folder': os.path.dirname(folder), 'version': version, 'cuda': cuda}))
`;

/** The TensorFlow of python3; undefined where there is none, or one that is too old to have the two libraries. */
export function findPythonTensorflow(): PythonTensorflow | undefined {
  const { status, stdout } = spawnSync('python3', ['-c', finder], { encoding: 'utf8', timeout: 30_000 });
  if (status !== 0 || !stdout.trim()) return undefined;
  const found = JSON.parse(stdout) as PythonTensorflow;
  const whole = libraries.every((name) => existsSync(join(found.folder, 'tensorflow', name)));
  return whole && found.version ? found : undefined;
}

export interface PythonLibraries {
  readonly version: string;
  readonly files: readonly string[];
}

const librariesFinder = `
import importlib.metadata, json, os, sys
found = {}
for name in sys.argv[1:]:
    try: distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError: continue
    files = [file for file in distribution.files or [] if file.parent.name == 'lib' and '.so' in file.name]
    paths = [os.path.abspath(distribution.locate_file(file)) for file in files]
    if paths and all(map(os.path.exists, paths)):
        found[name] = {'version': distribution.version, 'files': paths}
print(json.dumps(found))
`;

/** By package, the shared libraries of those packages that python3 has whole. */
export function findPythonLibraries(packages: readonly string[]): Record<string, PythonLibraries> {
  const { status, stdout } = spawnSync('python3', ['-c', librariesFinder, ...packages], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  return status === 0 ? (JSON.parse(stdout) as Record<string, PythonLibraries>) : {};
}

/** Makes the choice independent of this machine's own Python: the wheel is only unpacked. */
const anyLinux = ['2_28', '2_27', '2_17', '2014', '2010', '1']
  .map((version) => `manylinux${version.includes('_') ? '_' : ''}${version}_x86_64`)
  .flatMap((platform) => ['--platform', platform]);
const chosenPython = ['--python-version', '3.11', '--implementation', 'cp'];
const abis = ['cp311', 'abi3', 'none'].flatMap((abi) => ['--abi', abi]);

/** Downloads one wheel and returns its path; a wheel that an earlier run left in `folder` is checked and kept. */
export function pipDownload(requirement: string, folder: string): string {
  if (!hasPip()) {
    const advice =
      'install python3-pip, or fetch the wheel elsewhere and run npx tfjs-mla setup-tensorflow --wheel FILE';
    stop(`expected python3 with pip to download ${requirement}, got none; ${advice}`);
  }
  mkdirSync(folder, { recursive: true });
  const flags = ['--no-deps', '--only-binary=:all:', ...chosenPython, ...abis, ...anyLinux];
  const { status, signal } = spawnSync(
    'python3',
    ['-m', 'pip', 'download', '--disable-pip-version-check', ...flags, '--dest', folder, requirement],
    // as all progress, to stderr; on the same disk, so that a wheel appears there whole or not at all
    { stdio: ['ignore', 2, 2], env: { ...process.env, TMPDIR: folder } },
  );
  const wheel = readdirSync(folder).find((name) => name.endsWith('.whl'));
  if (status !== 0 || !wheel) {
    const advice = 'choose another with --version, or name a wheel with --wheel FILE';
    return stop(`expected pip to download ${requirement}, got ${signal ?? `exit code ${status}`}; ${advice}`);
  }
  return join(folder, wheel);
}

export function hasPip(): boolean {
  return spawnSync('python3', ['-m', 'pip', '--version'], { timeout: 30_000 }).status === 0;
}
