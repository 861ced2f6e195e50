/** Settings, start and pause, figures, chart and samples. */
import { defaultPreset, presets } from '../shared/presets.js';
import type { PresetName } from '../shared/presets.js';
import { button, continuation, element, input, make, setFigure, setText } from './elements.js';
import { bytesText, countText, rateText, secondsText } from './formats.js';
import { createLossPlot } from './lossPlot.js';
import type { Activity, Report, RunChoice } from './messages.js';
import { isIdle } from './state.js';
import type { DemoState, Panel, Send } from './state.js';

const mostSamples = 30;
const settingIds = ['batch', 'sequence'];

const activityText: Record<Activity, string> = {
  starting: 'starting …',
  compiling: 'preparing the model …',
  idle: 'ready',
  training: 'training',
  sampling: 'writing a sample',
  generating: 'writing for you',
  saving: 'saving',
  restoring: 'restoring',
  measuring: 'measuring',
  ended: 'stopped',
};

export function createTrainingPanel(send: Send, state: DemoState): Panel {
  const plot = createLossPlot();
  fillPresets();
  listen(send, state);
  return {
    show(report) {
      if (report.kind === 'run') showRun(state);
      if (report.kind === 'failed') showSize(state); // sizes that were refused
      if (report.kind === 'sample') showSample(report);
      if (report.kind === 'step') showStep(state);
      if (report.kind === 'run' || report.kind === 'step' || report.kind === 'held out') {
        showScores(state);
        plot(state, valueOf('steps') || 0);
      }
      showStatus(report, state);
      showButtons(state);
    },
  };
}

function fillPresets(): void {
  const select = element('preset', HTMLSelectElement);
  for (const [name, { about }] of Object.entries(presets)) select.add(new Option(`${name}: ${about}`, name));
}

function listen(send: Send, state: DemoState): void {
  const select = element('preset', HTMLSelectElement);
  const newRun = (choice: RunChoice): void => send({ kind: 'new run', choice });
  select.addEventListener('change', () => {
    const preset = select.value as PresetName;
    const { batch, sequence, totalSteps } = presets[preset].training;
    newRun({ preset, batch, sequence, totalSteps });
  });
  for (const id of settingIds) {
    input(id).addEventListener('change', () => {
      if (isComplete()) newRun(choiceOf(select));
    });
  }
  element('settings', HTMLFormElement).addEventListener('submit', (event) => event.preventDefault());
  input('steps').addEventListener('input', () => {
    showButtons(state);
    showProgress(state);
  });
  button('new-run').addEventListener('click', () => {
    const isKept = state.losses.length === state.saved?.step;
    const question = `Forget the ${state.losses.length} steps of this run? They are not saved.`;
    if (isComplete() && (isKept || confirm(question))) newRun(choiceOf(select));
  });
  button('start').addEventListener('click', () => {
    if (state.isTraining) send({ kind: 'pause' });
    else if (isComplete()) {
      const samplePrompt = element('prompt', HTMLTextAreaElement).value || 'The ';
      const [totalSteps, sampleEvery] = [valueOf('steps'), valueOf('sample-every')];
      send({ kind: 'start', totalSteps, sampleEvery, samplePrompt });
    }
  });
}

function isComplete(): boolean {
  return element('settings', HTMLFormElement).reportValidity();
}

function valueOf(id: string): number {
  return input(id).valueAsNumber;
}

function choiceOf(select: HTMLSelectElement): RunChoice {
  const preset = (select.value || defaultPreset) as PresetName;
  return { preset, batch: valueOf('batch'), sequence: valueOf('sequence'), totalSteps: valueOf('steps') };
}

function showRun(state: DemoState): void {
  const { run, losses } = state;
  if (!run) return;
  showSize(state);
  const { settings, parameterCount } = run;
  const { batch, sequence, totalSteps, learningRate } = settings;
  input('steps').valueAsNumber = totalSteps;
  setText(
    'run-about',
    `${countText(parameterCount)} parameters, ${countText(batch * sequence)} bytes of text a step, learning rate ${learningRate}.`,
  );
  for (const id of ['loss', 'speed', 'time-left', 'memory']) setFigure(id, '–');
  setFigure('step', countText(losses.length), `of ${countText(totalSteps)}`);
  element('samples', HTMLOListElement).replaceChildren(
    make('li', 'empty', 'Samples of this run appear here.'),
  );
}

/** Of the model and its batches, as the run has them. */
function showSize({ run }: DemoState): void {
  if (!run) return;
  element('preset', HTMLSelectElement).value = run.preset ?? '';
  input('batch').valueAsNumber = run.settings.batch;
  input('sequence').valueAsNumber = run.settings.sequence;
}

function showStep({ run, lastStep, memory }: DemoState): void {
  if (!run || !lastStep) return;
  const { batch, sequence } = run.settings;
  const left = Math.max(0, valueOf('steps') - lastStep.step);
  const seconds = (left * batch * sequence) / lastStep.tokensPerSecond;
  setFigure('speed', rateText(lastStep.tokensPerSecond), 'a token is a byte');
  setFigure('time-left', left ? secondsText(seconds) : 'done', left ? `${countText(left)} steps` : '');
  if (!memory) return;
  const { gpuBytes, tensorBytes, tensors } = memory;
  const kept = `${countText(tensors)} tensors`;
  if (gpuBytes === undefined) setFigure('memory', bytesText(tensorBytes), kept);
  else setFigure('memory', `${bytesText(gpuBytes)} GPU`, `${bytesText(tensorBytes)} in ${kept}`);
}

function showScores({ run, losses, heldOut }: DemoState): void {
  const loss = losses.at(-1);
  if (loss !== undefined) setFigure('loss', loss.toFixed(3), `${(loss / Math.LN2).toFixed(2)} bits per byte`);
  const score = heldOut.at(-1);
  const frequencies = `frequencies alone: ${run?.unigramEntropy.toFixed(2) ?? '–'}`;
  setFigure('held-out', score ? `${score.bitsPerByte.toFixed(2)} bits/byte` : '–', frequencies);
}

function showSample({ step, prompt, text }: Extract<Report, { kind: 'sample' }>): void {
  const list = element('samples', HTMLOListElement);
  list.querySelector('.empty')?.remove();
  const item = make('li', '');
  item.append(make('span', 'hint', `step ${countText(step)}`), continuation(prompt, text));
  list.prepend(item);
  while (list.children.length > mostSamples) list.lastElementChild?.remove();
}

function showStatus(report: Report, state: DemoState): void {
  const { activity, isTraining, losses } = state;
  const total = valueOf('steps');
  if (report.kind === 'progress') {
    setText(
      'status',
      report.total ? `${report.text}: ${report.done} of ${report.total}` : `${report.text} …`,
    );
  } else if (report.kind === 'activity') {
    const isPaused = activity === 'idle' && losses.length > 0;
    const idle = losses.length >= total ? 'finished: raise the steps to go on' : 'paused';
    const waits = isTraining && activity !== 'training' ? ', training goes on after that' : '';
    setText('status', isPaused ? idle : activityText[activity] + waits);
  }
  showProgress(state);
}

function showProgress({ losses }: DemoState): void {
  const total = valueOf('steps');
  const bar = element('progress', HTMLProgressElement);
  bar.value = Number.isFinite(total) ? Math.min(1, losses.length / total) : 0;
  setFigure('step', countText(losses.length), Number.isFinite(total) ? `of ${countText(total)}` : '');
}

function showButtons(state: DemoState): void {
  const { isTraining, losses, activity } = state;
  const idle = isIdle(state);
  const isDone = losses.length >= valueOf('steps');
  const start = button('start');
  start.textContent = isTraining ? 'Pause' : losses.length ? 'Go on' : 'Start';
  start.disabled = isTraining ? activity === 'ended' : !idle || isDone;
  button('new-run').disabled = !idle || losses.length === 0;
  // a run's size is fixed with its first step; its length is not
  for (const id of settingIds) input(id).disabled = !idle || losses.length > 0;
  element('preset', HTMLSelectElement).disabled = !idle || losses.length > 0;
  for (const id of ['steps', 'sample-every']) input(id).disabled = !idle;
}
