/**
 * Where Vulkan comes from on Linux: a hardware driver of this machine or, without one, SwiftShader, the software
 * driver that the development package @sparticuz/chromium carries.
 */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromiumArchives, unpackOnce } from './unpack.js';

type Environment = Readonly<Record<string, string | undefined>>;

const loader = 'libvulkan.so.1';
const loaderFolders = [
  '/usr/lib',
  '/usr/lib64',
  '/usr/local/lib',
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib/aarch64-linux-gnu',
];
const manifestFolders = ['/usr/share/vulkan/icd.d', '/usr/local/share/vulkan/icd.d', '/etc/vulkan/icd.d'];
const softwareDrivers = /swiftshader|lvp|lavapipe|llvmpipe|softpipe/i;

/** What to add to the environment of a process that is to find a Vulkan driver: nothing where it finds one anyway. */
export function vulkanEnvironment(environment: Environment): Record<string, string> {
  if (process.platform !== 'linux' || chosenDrivers(environment) || hasHardwareVulkan(environment)) return {};
  const driver = softwareVulkan();
  if (!driver) return {};
  const { LD_LIBRARY_PATH } = environment;
  return {
    VK_ICD_FILENAMES: driver.manifest,
    LD_LIBRARY_PATH: LD_LIBRARY_PATH ? `${driver.folder}:${LD_LIBRARY_PATH}` : driver.folder,
  };
}

/** True if a hardware driver is chosen by the environment, or installed together with its loader and its device. */
export function hasHardwareVulkan(environment: Environment): boolean {
  const chosen = chosenDrivers(environment);
  if (chosen) return !softwareDrivers.test(chosen);
  return (
    loaderFolders.some((folder) => existsSync(join(folder, loader))) && installedDrivers().some(hasDevice)
  );
}

/** SwiftShader and the Vulkan loader, unpacked; undefined where @sparticuz/chromium is not installed. */
export function softwareVulkan(): { folder: string; manifest: string } | undefined {
  const archives = chromiumArchives();
  if (!archives) return undefined;
  const folder = unpackOnce(archives, 'swiftshader', ['swiftshader.tar.br']);
  return { folder, manifest: join(folder, 'vk_swiftshader_icd.json') };
}

function chosenDrivers(environment: Environment): string | undefined {
  return environment.VK_DRIVER_FILES || environment.VK_ICD_FILENAMES;
}

function installedDrivers(): string[] {
  const manifests = manifestFolders
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder));
  return manifests.filter((name) => name.endsWith('.json') && !softwareDrivers.test(name));
}

/** A driver can be installed where no such card is: containers and virtual machines. */
function hasDevice(manifest: string): boolean {
  if (/nvidia/i.test(manifest)) return existsSync('/dev/nvidiactl');
  return existsSync('/dev/dri') && readdirSync('/dev/dri').some((node) => node.startsWith('renderD'));
}
