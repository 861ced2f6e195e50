/** The page: starts the worker, passes its reports to the panels, and shows what went wrong. */
import { readAddress } from './address.js';
import { createBackendPanel } from './backendPanel.js';
import { createChatPanel } from './chatPanel.js';
import { createCheckpointPanel } from './checkpointPanel.js';
import { button, element, setText } from './elements.js';
import type { Report } from './messages.js';
import { createState, take } from './state.js';
import type { DemoState, Panel, Send } from './state.js';
import { createTrainingPanel } from './trainingPanel.js';

declare global {
  interface Window {
    tfjsMlaDemo: Readonly<DemoState>;
  }
}

const state = createState();
window.tfjsMlaDemo = state;

const worker = new Worker('/worker.js', { type: 'module' });
const send: Send = (command, transfer = []) => worker.postMessage(command, transfer);
const panels: Panel[] = [
  createBackendPanel(send, state),
  createTrainingPanel(send, state),
  createCheckpointPanel(send, state, (doing, error) =>
    receive({ kind: 'failed', doing, text: (error as Error).message }),
  ),
  createChatPanel(send, state),
];

worker.addEventListener('message', ({ data }: MessageEvent<Report>) => receive(data));
worker.addEventListener('error', ({ message }) => {
  receive({ kind: 'failed', doing: 'The worker', text: message || 'it could not be loaded' });
  receive({ kind: 'activity', activity: 'ended', isTraining: false });
});
button('dismiss').addEventListener('click', () => {
  element('problem', HTMLElement).hidden = true;
});

try {
  send(readAddress(location.search));
} catch (error) {
  receive({ kind: 'failed', doing: 'Starting', text: (error as Error).message });
  receive({ kind: 'activity', activity: 'ended', isTraining: false });
}

function receive(report: Report): void {
  take(report, state);
  for (const panel of panels) panel.show(report, state);
  if (report.kind !== 'failed') return;
  element('problem', HTMLElement).hidden = false;
  setText('problem-text', state.problems[state.problems.length - 1]);
}
