/** What the NVIDIA driver says of itself and its GPUs, without loading it. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';

/** The oldest drivers that take images compiled by these versions of CUDA. */
export const leastDrivers = { 13: 580, 12: 525 } as const;

const folder = '/proc/driver/nvidia';

export interface Gpu {
  readonly name: string;
  /** 90 for 9.0; only nvidia-smi tells */
  readonly capability?: number;
}

export function driverVersion(): string | undefined {
  const file = join(folder, 'version');
  const text = existsSync(file) ? readFileSync(file, 'utf8') : undefined;
  return text ? /\b\d{3}\.\d+(\.\d+)?/.exec(text)?.[0] : query('driver_version')[0];
}

/** The version of CUDA whose images of our kernels this driver takes. */
export function imagesOf(driver: string): 13 | 12 | undefined {
  const major = parseInt(driver, 10);
  return major >= leastDrivers[13] ? 13 : major >= leastDrivers[12] ? 12 : undefined;
}

export function gpus(): Gpu[] {
  const told = query('name,compute_cap').map((line) => {
    const [name, capability] = line.split(', ');
    return { name, capability: Math.round(10 * Number(capability)) || undefined };
  });
  return told.length > 0 ? told : listedGpus();
}

/** As the driver lists them, for where nvidia-smi is absent. */
function listedGpus(): Gpu[] {
  const list = join(folder, 'gpus');
  if (!existsSync(list)) return [];
  return readdirSync(list).flatMap((bus) => {
    const name = /^Model:\s*(.+)$/m.exec(readFileSync(join(list, bus, 'information'), 'utf8'))?.[1];
    return name ? [{ name }] : [];
  });
}

function query(fields: string): string[] {
  const { status, stdout } = spawnSync('nvidia-smi', [`--query-gpu=${fields}`, '--format=csv,noheader'], {
    encoding: 'utf8',
    timeout: 30_000,
  });
  return status === 0 ? stdout.trim().split('\n').filter(Boolean) : [];
}
