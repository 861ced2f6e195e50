/** What the page's address asks for: ?preset=tiny&batch=2&sequence=32&steps=40&seed=1&heldout=16&backend=wasm */
import { presets } from '../shared/presets.js';
import type { PresetName } from '../shared/presets.js';
import { backendNames } from './messages.js';
import type { BackendName, Command, RunChoice } from './messages.js';

/** Throws if a parameter has a value that it cannot have. */
export function readAddress(search: string): Extract<Command, { kind: 'open' }> {
  const parameters = new URLSearchParams(search);
  const choice: Partial<RunChoice> = {};
  const preset = parameters.get('preset');
  if (preset !== null) choice.preset = oneOf('preset', preset, Object.keys(presets)) as PresetName;
  const { batch, sequence, steps } = {
    batch: count(parameters, 'batch'),
    sequence: count(parameters, 'sequence'),
    steps: count(parameters, 'steps'),
  };
  if (batch !== undefined) choice.batch = batch;
  if (sequence !== undefined) choice.sequence = sequence;
  if (steps !== undefined) choice.totalSteps = steps;
  const backend = parameters.get('backend') ?? undefined;
  return {
    kind: 'open',
    backend: backend === undefined ? undefined : (oneOf('backend', backend, backendNames) as BackendName),
    choice,
    seed: count(parameters, 'seed') ?? 1,
    heldOutWindows: count(parameters, 'heldout') ?? 16,
  };
}

function oneOf(name: string, value: string, allowed: readonly string[]): string {
  if (allowed.includes(value)) return value;
  throw new Error(`the address: ${name} must be one of ${allowed.join(', ')}, got ${value}`);
}

function count(parameters: URLSearchParams, name: string): number | undefined {
  const text = parameters.get(name);
  if (text === null) return undefined;
  const value = Number(text);
  if (Number.isInteger(value) && value >= 1) return value;
  throw new Error(`the address: ${name} must be a positive integer, got ${text}`);
}
