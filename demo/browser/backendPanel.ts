/** What computes: the badge, the banner without a graphics card, the kernels and their cost, and a lost device. */
import type { Plan } from '../../src/index.js';
import { button, element, make, setText } from './elements.js';
import type { BackendName, BackendReport, KernelCost, Measurement } from './messages.js';
import { isIdle } from './state.js';
import type { DemoState, Panel, Send } from './state.js';

/** Rows of kernels that are not ours. */
const mostOthers = 8;
const backendTitle: Record<BackendName, string> = { webgpu: 'WebGPU', wasm: 'WebAssembly SIMD', cpu: 'CPU' };
/** What the banner says of the model on each backend. */
const consequences: Record<BackendName, string> = {
  webgpu: '',
  wasm: 'The same model runs on WebAssembly kernels, slower than on a graphics card: the tiny and small models suit them.',
  cpu: 'The same model runs on kernels in plain JavaScript, many times slower than on a graphics card: the tiny model suits them.',
};

export function createBackendPanel(send: Send, state: DemoState): Panel {
  button('measure').addEventListener('click', () => send({ kind: 'measure' }));
  button('reload').addEventListener('click', () => location.reload());
  return {
    show(report) {
      if (report.kind === 'backend') showBackend(report.backend);
      if (report.kind === 'run') showPlans(report.run.plans);
      if (report.kind === 'backend' || report.kind === 'run') showBadge(state);
      if (report.kind === 'measured') showCosts(report.measurement);
      if (report.kind === 'lost') showLoss(report.text, state);
      // the step that is measured is one of the run
      button('measure').disabled =
        !isIdle(state) || state.losses.length >= (state.run?.settings.totalSteps ?? 0);
    },
  };
}

function showBadge({ backend, run }: DemoState): void {
  if (!backend) return;
  const plan = run?.plans[0];
  const lane = plan ? ` · lane ${plan.lane}, ${plan.computePrecision}` : '';
  const software = backend.name === 'webgpu' && backend.isSoftware ? ' (software)' : '';
  element('badge', HTMLElement).className = `badge ${backend.name}`;
  setText('badge-text', `${backendTitle[backend.name]} · ${backend.device}${software}${lane}`);
}

function showBackend(backend: BackendReport): void {
  const { name, passedOver } = backend;
  element('banner', HTMLElement).hidden = passedOver.length === 0;
  setText('banner-text', [...passedOver, consequences[name]].join(' '));
  setText('device-text', deviceText(backend));
}

function deviceText({ name, isOwnDevice, isSoftware, passedOver }: BackendReport): string {
  const chosen = passedOver.length === 0 ? 'as this address asks for' : 'as nothing better is to be had';
  if (name === 'cpu') return `Kernels in plain JavaScript, ${chosen}.`;
  if (name === 'wasm') return `WebAssembly kernels with SIMD instructions, ${chosen}.`;
  const device = isOwnDevice
    ? 'on a device of our own, with all features and limits that the adapter has'
    : "on TensorFlow.js's own device, with its usual features";
  const software = isSoftware
    ? ' This adapter is software: your processor emulates a graphics card, slowly.'
    : '';
  return `WebGPU ${device}.${software}`;
}

function showPlans(plans: readonly Plan[]): void {
  const rows = plans.map(({ kernel, backend, lane, computePrecision, tile, passedOver }) => {
    const tiles = Object.entries(tile).map(([name, value]) => `${name} ${value}`);
    const reasons = passedOver.map(({ candidate, reason }) => `${candidate}: ${reason}`);
    const made = row(kernel, [backend, lane, computePrecision, tiles.join(', ') || '–']);
    made.append(foldedCell(reasons));
    return made;
  });
  element('plans', HTMLTableSectionElement).replaceChildren(...rows);
}

/** A long list that opens on demand. */
function foldedCell(lines: readonly string[]): HTMLElement {
  if (lines.length === 0) return make('td', '', '–');
  const cell = make('td', '');
  const details = make('details', '');
  details.append(make('summary', '', `${lines.length} others`), ...lines.map((line) => make('p', '', line)));
  cell.append(details);
  return cell;
}

/** Ours, the dearest of tfjs's, and one line for the rest. */
function showCosts({ training, generation }: Measurement): void {
  const names = [...new Set([...training, ...generation].map(({ kernel }) => kernel))];
  const ours = names.filter(isOurs);
  const others = names.filter((name) => !isOurs(name));
  const rest = others.slice(mostOthers);
  const table = element('costs', HTMLTableSectionElement);
  table.replaceChildren(
    ...[...ours, ...others.slice(0, mostOthers)].map((name) =>
      costRow(
        name,
        [training, generation].map((costs) => costs.filter(({ kernel }) => kernel === name)),
      ),
    ),
    costRow(
      `${rest.length} others`,
      [training, generation].map((costs) => costs.filter(({ kernel }) => rest.includes(kernel))),
    ),
  );
  element('costs-table', HTMLElement).hidden = false;
}

function isOurs(kernel: string): boolean {
  return kernel.startsWith('MLA');
}

function costRow(title: string, costs: readonly KernelCost[][]): HTMLElement {
  const cells = costs.flatMap((list) => {
    const calls = list.reduce((sum, cost) => sum + cost.calls, 0);
    const timeMs = list.reduce((sum, cost) => sum + cost.timeMs, 0);
    return calls ? [String(calls), timeMs.toFixed(2)] : ['–', '–'];
  });
  const made = row(title, cells, 'number');
  made.classList.toggle('ours', isOurs(title));
  return made;
}

function row(title: string, cells: readonly string[], className = ''): HTMLElement {
  const made = make('tr', '');
  const head = make('th', '', title);
  head.setAttribute('scope', 'row');
  made.append(head, ...cells.map((text) => make('td', className, text)));
  return made;
}

function showLoss(text: string, { saved, losses }: DemoState): void {
  element('lost', HTMLElement).hidden = false;
  element('badge', HTMLElement).className = 'badge ended';
  const reason = /[.!?]$/.test(text) ? text : `${text}.`;
  const rescue = saved
    ? `Step ${saved.step} is saved in this browser: reload the page and press Restore.`
    : 'Nothing was saved in this browser: reload the page to begin anew.';
  setText(
    'lost-text',
    `The browser or its driver took the graphics device away: ${reason} The run stood at step ${losses.length}. ${rescue}`,
  );
}
