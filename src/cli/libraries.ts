/** Puts TensorFlow's two libraries, the headers of the binding and, for a GPU, those of CUDA into tfjs-node's folder. */
import { readdirSync, rmSync, symlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { say, stop } from './progress.js';
import { findPythonLibraries, findPythonTensorflow, pipDownload } from './python.js';
import type { PythonLibraries, PythonTensorflow } from './python.js';
import { libraries, libraryLinks, openWheel, placeInTfjsNode } from './tensorflowWheel.js';
import type { Wheel } from './tensorflowWheel.js';
import { addPart, cudaFolder, downloadFolder, sourceOf } from './tfjsNode.js';

export const defaultVersions = { cpu: '2.18.1', gpu: '2.21.0' } as const;

/** What the CUDA build of TensorFlow opens at run time: packages, and the major version that is one too new. */
const cudaPackages = {
  'nvidia-cuda-runtime-cu12': 13,
  'nvidia-cublas-cu12': 13,
  'nvidia-cudnn-cu12': 10,
  'nvidia-cufft-cu12': 13,
  'nvidia-cusolver-cu12': 13,
  'nvidia-cusparse-cu12': 13,
  'nvidia-nvjitlink-cu12': 13,
} as const;

export interface Wanted {
  readonly gpu: boolean;
  readonly version?: string;
  /** Files: one of TensorFlow, the others of CUDA */
  readonly wheels: readonly string[];
}

/** Returns what is there now, as in `tensorflow_cpu-2.18.1`. */
export async function putTensorflow(folder: string, { gpu, version, wheels }: Wanted): Promise<string> {
  const wheel = wheels.find((file) => cudaPackageOf(file) === undefined);
  if (wheel !== undefined) return unpackTensorflow(folder, wheel, gpu, version);
  const there = sourceOf(folder, 'tensorflow');
  if (there && (version === undefined || there.endsWith(`-${version}`))) {
    say(`${there} is there already`);
    return there;
  }
  const installed = findPythonTensorflow();
  if (installed) {
    const unfit = unfitness(installed, gpu, version);
    if (!unfit) return linkTensorflow(folder, installed);
    say(`TensorFlow ${installed.version} of python3 is not used: ${unfit}`);
  }
  const requirement = gpu
    ? `tensorflow==${version ?? defaultVersions.gpu}`
    : `tensorflow-cpu==${version ?? defaultVersions.cpu}`;
  return withDownload(folder, requirement, (file) => unpackTensorflow(folder, file, gpu, version));
}

/** A CUDA build ends the process on a machine that has a driver and lacks libcudart, so it is not for everybody. */
function unfitness(
  { cuda, version: got }: PythonTensorflow,
  gpu: boolean,
  version?: string,
): string | undefined {
  if (version !== undefined && got !== version) return `expected version ${version}`;
  if (cuda !== gpu) return gpu ? 'expected a build with CUDA' : 'expected a build without CUDA';
  return undefined;
}

/** Each wheel goes as soon as it is unpacked: those of CUDA are 2 GB together. */
async function withDownload<Result>(
  folder: string,
  requirement: string,
  use: (wheel: string) => Promise<Result>,
): Promise<Result> {
  say(`downloading ${requirement}`);
  const place = join(folder, downloadFolder, requirement);
  const result = await use(pipDownload(requirement, place));
  rmSync(place, { recursive: true });
  return result;
}

async function linkTensorflow(folder: string, { folder: site, version }: PythonTensorflow): Promise<string> {
  const source = `python3-tensorflow-${version}`;
  const headers = readdirSync(join(site, 'tensorflow/include'), { recursive: true, encoding: 'utf8' });
  const names = [
    ...libraries.map((library) => `tensorflow/${library}`),
    ...headers.map((header) => `tensorflow/include/${header}`),
  ];
  const places = chosen(names, placeInTfjsNode);
  say(`linking ${places.size} files of the TensorFlow ${version} of python3`);
  await addPart(folder, 'tensorflow', source, [...places.values(), ...Object.keys(libraryLinks)], () => {
    for (const [name, place] of places) symlinkSync(join(site, name), join(folder, place));
    putLinks(folder, libraryLinks);
  });
  return source;
}

async function unpackTensorflow(
  folder: string,
  file: string,
  gpu: boolean,
  version?: string,
): Promise<string> {
  const wheel = await openWheel(file);
  try {
    const { source } = wheel;
    for (const library of libraries) {
      if (!wheel.sizes.has(`tensorflow/${library}`)) {
        stop(`expected a wheel of TensorFlow 2.12 or newer for linux, got ${source} without ${library}`);
      }
    }
    if (version !== undefined && !source.endsWith(`-${version}`)) {
      stop(`expected version ${version}, got a wheel of ${source}; leave --version out`);
    }
    if (gpu && source.startsWith('tensorflow_cpu-')) {
      stop(`expected a wheel of tensorflow for --gpu, got ${source}; leave --gpu out`);
    }
    await unpack(folder, 'tensorflow', wheel, placeInTfjsNode, libraryLinks);
    return source;
  } finally {
    wheel.close();
  }
}

/** All into one folder: of the many that the wheels use, it is the one where both libraries of TensorFlow look. */
export async function putCuda(folder: string, wheels: readonly string[]): Promise<void> {
  const given = new Map(wheels.map((file) => [cudaPackageOf(file), file]));
  const installed = findPythonLibraries(Object.keys(cudaPackages));
  for (const [name, tooNew] of Object.entries(cudaPackages)) {
    const there = sourceOf(folder, name);
    const [file, found] = [given.get(name), installed[name]];
    if (file !== undefined) await unpackCuda(folder, name, file);
    else if (there) say(`${there} is there already`);
    else if (found && parseInt(found.version, 10) < tooNew) await linkCuda(folder, name, found);
    else await withDownload(folder, `${name}<${tooNew}`, (each) => unpackCuda(folder, name, each));
  }
}

/** By the name of the file, in which '-' is written '_'. */
function cudaPackageOf(file: string): string | undefined {
  const name = basename(file).split('-')[0].replaceAll('_', '-');
  return Object.hasOwn(cudaPackages, name) ? name : undefined;
}

async function linkCuda(folder: string, name: string, { version, files }: PythonLibraries): Promise<void> {
  say(`linking ${files.length} files of the ${name} ${version} of python3`);
  const places = files.map((file) => `${cudaFolder}/${basename(file)}`);
  await addPart(folder, name, `python3-${name}-${version}`, places, () => {
    files.forEach((file, index) => symlinkSync(file, join(folder, places[index])));
  });
}

async function unpackCuda(folder: string, kind: string, file: string): Promise<void> {
  const wheel = await openWheel(file);
  try {
    await unpack(folder, kind, wheel, (name) =>
      /\/lib\/[^/]+\.so(\.|$)/.test(name) ? `${cudaFolder}/${basename(name)}` : undefined,
    );
  } finally {
    wheel.close();
  }
}

async function unpack(
  folder: string,
  kind: string,
  wheel: Wheel,
  placeOf: (name: string) => string | undefined,
  links: Readonly<Record<string, string>> = {},
): Promise<void> {
  const { source, sizes } = wheel;
  if (sourceOf(folder, kind) === source) return say(`${source} is there already`);
  const places = chosen([...sizes.keys()], placeOf);
  const bytes = [...places.keys()].reduce((sum, name) => sum + (sizes.get(name) ?? 0), 0);
  say(`unpacking ${places.size} files, ${(bytes / 1e6).toFixed(1)} MB, of ${source}`);
  await addPart(folder, kind, source, [...places.values(), ...Object.keys(links)], async () => {
    for (const [name, place] of places) await wheel.extract(name, join(folder, place));
    putLinks(folder, links);
  });
}

function putLinks(folder: string, links: Readonly<Record<string, string>>): void {
  for (const [link, target] of Object.entries(links)) symlinkSync(target, join(folder, link));
}

function chosen(
  names: readonly string[],
  placeOf: (name: string) => string | undefined,
): Map<string, string> {
  const places = new Map<string, string>();
  for (const name of names) {
    const place = placeOf(name);
    if (place) places.set(name, place);
  }
  return places;
}
