/** A headless Chromium for the tests: the one that @sparticuz/chromium carries, with the libraries it needs. */
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import type { Browser } from 'playwright-core';
import { chromiumArchives, unpackOnce } from '../../src/device/unpack.js';
import { hasHardwareVulkan } from '../../src/device/vulkan.js';

export interface ChromiumOptions {
  readonly webgpu: boolean;
}

const offTheNetwork = [
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-domain-reliability',
  '--disable-sync',
  '--no-first-run',
  '--no-pings',
];
const anyWebgpu = ['--enable-unsafe-webgpu', '--enable-features=Vulkan', '--ignore-gpu-blocklist'];
const hardwareWebgpu = [...anyWebgpu, '--use-angle=vulkan'];
const softwareWebgpu = [...anyWebgpu, '--use-vulkan=swiftshader', '--use-webgpu-adapter=swiftshader'];

/** Why there is no Chromium on this machine, or undefined where there is one. */
export function absentChromium(): string | undefined {
  const platform = `${process.platform}-${process.arch}`;
  if (platform !== 'linux-x64') return `@sparticuz/chromium has no build for ${platform}`;
  return chromiumArchives() ? undefined : '@sparticuz/chromium is not installed';
}

/** On WebGPU it runs on this machine's GPU if there is one, else on SwiftShader. */
export async function launchChromium({ webgpu }: ChromiumOptions): Promise<Browser> {
  const archives = chromiumArchives();
  if (!archives) throw new Error('launchChromium: expected the package @sparticuz/chromium, got none');
  const folder = unpackOnce(archives, 'browser', ['chromium.br', 'swiftshader.tar.br', 'al2023.tar.br']);
  return chromium.launch({
    executablePath: join(folder, 'chromium'),
    args: ['--no-sandbox', ...offTheNetwork, ...(webgpu ? webgpuFlags() : [])],
    env: { ...process.env, LD_LIBRARY_PATH: join(folder, 'lib') },
  });
}

function webgpuFlags(): string[] {
  return hasHardwareVulkan(process.env) ? hardwareWebgpu : softwareWebgpu;
}
