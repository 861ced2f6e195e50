/**
 * Runs a script in a Node process that finds a Vulkan driver:  node --import tsx src/device/launch.ts SCRIPT [args…]
 * The loader reads its environment when a process starts, so a new process is the only way to point it at SwiftShader.
 */
import { spawn } from 'node:child_process';
import { resolve } from 'node:path';
import { vulkanEnvironment } from './vulkan.js';

const [script, ...args] = process.argv.slice(2);
if (!script) throw new Error('launch: expected a script to run, got none');

const child = spawn(process.execPath, [...process.execArgv, resolve(script), ...args], {
  stdio: 'inherit',
  env: { ...process.env, ...vulkanEnvironment(process.env) },
});
process.on('SIGTERM', () => child.kill('SIGTERM'));
// A terminal sends Ctrl+C to the whole group: passing it on there would interrupt the child twice.
process.on('SIGINT', () => {
  if (!process.stdin.isTTY) child.kill('SIGINT');
});
child.on('exit', (code, signal) => {
  if (signal) endBySignal(signal);
  else process.exitCode = code ?? 1;
});

function endBySignal(signal: NodeJS.Signals): void {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
}
