/** `tfjs-mla doctor`: what runs in this folder. No TensorFlow is loaded here, so whatever is broken it can say so. */
import { existsSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { leastCapability } from '../../kernels/tensorflow/native.js';
import { engineHas } from '../../kernels/wasm/compiled.js';
import { versionText } from '../core/versionText.js';
import { chooseTfjsNode, findTfjsNodes } from '../device/chooseTfjsNode.js';
import {
  bindingFile,
  cudaRuntime,
  driverLibrary,
  hasCudaRuntime,
  libraryFolder,
  opens,
  tfjsNodeNames,
} from '../device/tfjsNode.js';
import { absentTools, computationText, compute } from './binding.js';
import { findPythonTensorflow, hasPip } from './python.js';
import { driverVersion, gpus, imagesOf, leastDrivers } from './nvidia.js';
import { findPackage, installCommand, sourceOf } from './tfjsNode.js';

interface Finding {
  readonly ok: boolean;
  readonly what: string;
  /** The command that mends it. */
  readonly mend?: string;
}

const tfjsPackages = ['core', 'layers', 'backend-cpu', 'backend-wasm', 'backend-webgpu'];

export function doctor(): void {
  const checks: (() => Finding | Finding[])[] = [
    node,
    ...tfjsPackages.map((name) => () => packageFinding(`@tensorflow/tfjs-${name}`)),
    () => engineFinding('simd', 'WebAssembly SIMD'),
    () => engineFinding('relaxedSimd', 'WebAssembly relaxed SIMD'),
    dawn,
    () => tfjsNode('@tensorflow/tfjs-node', 'npx tfjs-mla setup-tensorflow'),
    () => tfjsNode('@tensorflow/tfjs-node-gpu', 'npx tfjs-mla setup-tensorflow --gpu'),
    buildTools,
    pip,
    pythonTensorflow,
    nvidiaDriver,
    nvidiaGpus,
    door,
  ];
  for (const check of checks) for (const finding of findings(check)) print(finding);
}

/** A check that throws is a finding too. */
function findings(check: () => Finding | Finding[]): Finding[] {
  try {
    return [check()].flat();
  } catch (error) {
    return [{ ok: false, what: (error as Error).message }];
  }
}

function print({ ok, what, mend }: Finding): void {
  process.stdout.write(`${ok ? 'ok' : 'no'}  ${what}${!ok && mend ? `: ${mend}` : ''}\n`);
}

function node(): Finding {
  const [major, minor] = process.versions.node.split('.').map(Number);
  return {
    ok: major > 20 || (major === 20 && minor >= 19),
    what: `Node ${process.versions.node} on ${process.platform} ${process.arch}`,
    mend: 'install Node 20.19 or newer',
  };
}

function packageFinding(name: string, mend = installCommand(name)): Finding {
  const found = findPackage(name);
  return { ok: found !== undefined, what: found ? `${name} ${found.version}` : name, mend };
}

function engineFinding(feature: 'simd' | 'relaxedSimd', what: string): Finding {
  return { ok: engineHas(feature), what, mend: 'install Node 22 or newer' };
}

function dawn(): Finding {
  const { ok, what, mend } = packageFinding('webgpu', 'npm install webgpu');
  return { ok, what: `Dawn (WebGPU in Node), package ${what}`, mend };
}

function tfjsNode(name: string, setup: string): Finding[] {
  const found = findPackage(name);
  const installed = packageFinding(name);
  if (!found) return [installed];
  const { folder } = found;
  const version = libraryVersion(folder);
  const built = existsSync(join(folder, bindingFile(folder)));
  const answer = version && built ? compute(folder) : undefined;
  return [
    installed,
    { ok: version !== undefined, what: `${name}: libtensorflow ${version ?? ''}`.trim(), mend: setup },
    { ok: built, what: `${name}: binding`, mend: setup },
    ...(name === tfjsNodeNames.gpu ? [runtime(name, folder, setup)] : []),
    ...(answer ? [computation(name, answer, setup)] : []),
  ];
}

/** From our own record, or from the file name that the package's own script gives its download. */
function libraryVersion(folder: string): string | undefined {
  const libraries = join(folder, libraryFolder);
  const names = existsSync(libraries) ? readdirSync(libraries) : [];
  const stock = names.find((name) => /^libtensorflow\.so\.\d+\.\d+/.test(name));
  return (
    sourceOf(folder, 'tensorflow') ??
    stock?.replace('libtensorflow.so.', '') ??
    (names.includes('libtensorflow.so') ? 'of unknown version' : undefined)
  );
}

function runtime(name: string, folder: string, mend: string): Finding {
  return { ok: hasCudaRuntime(folder), what: `${name}: ${cudaRuntime}`, mend };
}

function computation(name: string, answer: ReturnType<typeof compute>, mend: string): Finding {
  if ('reason' in answer) return { ok: false, what: `${name} computes (${answer.reason})`, mend };
  return { ok: true, what: `${name} ${computationText(answer)}` };
}

function buildTools(): Finding {
  const absent = absentTools();
  const what = absent.length > 0 ? `${absent.join(', ')}, to build the binding` : 'g++, make, python3';
  return { ok: absent.length === 0, what, mend: 'apt-get install g++ make python3' };
}

function pip(): Finding {
  return { ok: hasPip(), what: 'python3 with pip', mend: 'apt-get install python3-pip' };
}

function pythonTensorflow(): Finding {
  const found = findPythonTensorflow();
  if (!found)
    return { ok: false, what: 'TensorFlow of python3', mend: 'not needed, it only saves a download' };
  const { version, cuda } = found;
  return { ok: true, what: `TensorFlow ${version} of python3, ${cuda ? 'with' : 'without'} CUDA` };
}

function nvidiaDriver(): Finding {
  const version = driverVersion();
  const images = version && imagesOf(version);
  const text = ['NVIDIA driver', version].filter(Boolean).join(' ');
  if (!opens(driverLibrary)) {
    return {
      ok: false,
      what: `${text} (${driverLibrary} does not open)`,
      mend: 'install the driver of your card',
    };
  }
  if (version && !images) {
    const mend = `install ${leastDrivers[12]} or newer, better ${leastDrivers[13]} or newer`;
    return { ok: false, what: `${text}, too old for our kernels`, mend };
  }
  return { ok: true, what: images ? `${text}, which takes our kernels' CUDA ${images} images` : text };
}

function nvidiaGpus(): Finding[] {
  return gpus().map(({ name, capability }) => {
    if (capability === undefined) return { ok: true, what: `GPU ${name}` };
    const what = `GPU ${name}, compute capability ${versionText(capability)}`;
    const mend = `our kernels need ${versionText(leastCapability)}; CUDA_VISIBLE_DEVICES=-1 computes on the CPU`;
    return { ok: capability >= leastCapability, what, mend };
  });
}

/** What an import of tfjs-mla/node in this folder would load. */
function door(): Finding {
  const { chosen, noGpu } = chooseTfjsNode(findTfjsNodes(createRequire(join(process.cwd(), 'module.js'))));
  const text = `tfjs-mla/node loads ${chosen.name} and computes on the`;
  return {
    ok: true,
    what: chosen.noGpu === undefined ? `${text} GPU` : `${text} CPU (${noGpu ?? chosen.noGpu})`,
  };
}
