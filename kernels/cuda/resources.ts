/** resources.md: what the compiler makes of each kernel, and how many of its blocks fit on a multiprocessor. */
import { join } from 'node:path';
import type { Module } from './modules.js';

export const resourcesFile = join(import.meta.dirname, 'resources.md');

interface Kernel {
  readonly module: string;
  readonly name: string;
  /** As in sm_80. */
  readonly architecture: string;
  readonly registers: number;
  readonly spilledBytes: number;
  readonly stackBytes: number;
  readonly sharedBytes: number;
}

/** What planOnGpu of the native library answers, in text. */
interface Plan {
  readonly launches: readonly Launch[];
}
interface Launch {
  readonly module: string;
  readonly function: string;
  readonly threads: number;
  readonly sharedBytes: number;
}

/** Of the report of ptxas -v. */
function kernelsOf({ name: module, report }: Module): Kernel[] {
  const parts = report.split("Compiling entry function '").slice(1);
  return parts.map((part) => {
    const [, name, architecture] = /^(\w+)' for '(\w+)'/.exec(part) ?? [];
    const number = (pattern: RegExp): number => Number(pattern.exec(part)?.[1] ?? 0);
    return {
      module,
      name,
      architecture,
      registers: number(/Used (\d+) registers/),
      spilledBytes: number(/(\d+) bytes spill stores/) + number(/(\d+) bytes spill loads/),
      stackBytes: number(/(\d+) bytes stack frame/),
      sharedBytes: number(/(\d+) bytes smem/),
    };
  });
}

/** Calls whose launches the table has: the head sizes with kernels of their own, one without, decode with few and many heads. */
const attention = ['128 64 128', '128 0 128', '64 32 64', '64 0 64', '40 0 40'].map(
  (depths) => `1 16 16 4096 4096 ${depths}`,
);
const decode = ['1 16 1 1 2048 512 64 512', '8 128 1 1 4096 512 64 512'];
const types = { float32: 0, half: 1, bfloat16: 2 };
const precisions = { float32: 0, tf32: 1, bfloat16: 3 };
/** type and precision */
const numbers = [
  ...Object.values(precisions).map((precision) => `${types.float32} ${precision}`),
  `${types.half} 0`,
  `${types.bfloat16} 0`,
];
const kernels = [0, 1, 2, 3];
const causal = `${1 << 29} 0 0`;

function callsOf(capability: number, multiprocessors: number): string[] {
  const sizes = [...attention.map((size) => `0|${size}`), ...decode.map((size) => `1|${size}`)];
  return kernels.flatMap((kernel) =>
    sizes.flatMap((text) => {
      const [isDecode, size] = text.split('|');
      return numbers.map(
        (number) =>
          `${capability} ${multiprocessors} ${kernel} ${isDecode} ${number} ${size} ${causal} 0 0 0`,
      );
    }),
  );
}

/** Of one multiprocessor, in the CUDA C++ programming guide's table of compute capabilities. */
const devices = [
  { capability: 80, multiprocessors: 108, sharedBytes: 164 * 1024 },
  { capability: 90, multiprocessors: 132, sharedBytes: 228 * 1024 },
] as const;
const registers = 65536;
const mostWarps = 64;
const mostBlocks = 32;
/** Shared memory that the system takes of each block. */
const reservedBytes = 1024;

/** Registers are given to warps in units of 256, to four warps at once; shared memory in units of 128 bytes. */
function blocksPerMultiprocessor(kernel: Kernel, launch: Launch, device: { sharedBytes: number }): number {
  const warps = Math.ceil(launch.threads / 32);
  const registersPerWarp = Math.ceil((kernel.registers * 32) / 256) * 256;
  const warpsWithRegisters = Math.floor(registers / registersPerWarp / 4) * 4;
  const bytes = Math.ceil((kernel.sharedBytes + launch.sharedBytes + reservedBytes) / 128) * 128;
  return Math.min(
    mostBlocks,
    Math.floor(mostWarps / warps),
    Math.floor(warpsWithRegisters / warps),
    Math.floor(device.sharedBytes / bytes),
  );
}

/** The text of resources.md. `planOnGpu` is that of the native library. */
export function resourcesText(
  version: string,
  modules: readonly Module[],
  planOnGpu: (call: string) => string,
): string {
  const compiled = modules.flatMap(kernelsOf);
  const launched = devices.flatMap((device) => {
    const plans = callsOf(device.capability, device.multiprocessors).map(
      (call) => JSON.parse(planOnGpu(call)) as Plan | null,
    );
    const rows = plans
      .flatMap((plan) => plan?.launches ?? [])
      .map((launch) => launchRow(launch, device, compiled));
    return [...new Set(rows)].sort();
  });
  return `# What the compiler makes of the CUDA kernels

Written by \`npm run build:native -- --resources\`, by nvcc ${version}; a test compares it with what is compiled.

## Kernels
Per thread, but for the shared memory, which is that of a block before a launch adds to it.

| kernel | architecture | registers | spilled bytes | stack bytes | shared bytes |
| --- | --- | --- | --- | --- | --- |
${compiled.map(kernelRow).join('\n')}

## Launches
The blocks that fit on one multiprocessor at once, computed from the registers, the threads and all shared memory. The calls: causal, B1 H16
S4096 with heads of 192/128 (64 of them rope), 128/128, 96/64, 64/64 and 40/40; decode 576/512 at B1 H16 S2048 and B8 H128 S4096; their
gradients; as float32, tf32, bfloat16 from float32 tensors, half and bfloat16.

| device | kernel | threads | shared bytes of the launch | blocks | warps |
| --- | --- | --- | --- | --- | --- |
${launched.join('\n')}
`;
}

function kernelRow(kernel: Kernel): string {
  const { module, name, architecture, spilledBytes, stackBytes, sharedBytes } = kernel;
  const columns = [kernel.registers, spilledBytes, stackBytes, sharedBytes];
  return `| ${module} ${name} | ${architecture} | ${columns.join(' | ')} |`;
}

function launchRow(launch: Launch, device: (typeof devices)[number], compiled: readonly Kernel[]): string {
  const kernel = compiled.find(
    ({ module, name, architecture }) =>
      module === launch.module &&
      name === launch.function &&
      architecture.startsWith(`sm_${device.capability}`),
  );
  if (!kernel) throw new Error(`resources: ${launch.module} has no kernel ${launch.function}`);
  const blocks = blocksPerMultiprocessor(kernel, launch, device);
  const warps = blocks * Math.ceil(launch.threads / 32);
  const columns = [launch.threads, launch.sharedBytes, blocks, warps];
  return `| ${(device.capability / 10).toFixed(1)} | ${launch.module} ${launch.function} | ${columns.join(' | ')} |`;
}
