/** The worker: all computing happens here, so that the page stays alive also when the processor does it. */
import { makeCorpus } from '../shared/corpus.js';
import type { Corpus } from '../shared/corpus.js';
import { presets } from '../shared/presets.js';
import { chooseBackend, watchDevice } from './backend.js';
import { checkpointNote } from './checkpointStore.js';
import type { BackendReport, Command, Report, RunChoice } from './messages.js';
import { Session } from './session.js';

type OpenCommand = Extract<Command, { kind: 'open' }>;

/** What a failed command was about, as the page says it. */
const doing: Record<Command['kind'], string> = {
  open: 'Starting',
  'new run': 'Making the model',
  start: 'Training',
  pause: 'Pausing',
  save: 'Saving',
  restore: 'Restoring',
  download: 'Preparing the download',
  load: 'Loading the files',
  generate: 'Generating',
  stop: 'Stopping',
  measure: 'Measuring',
};

let session: Session | undefined;
let isLost = false;

self.addEventListener('message', ({ data }: MessageEvent<Command>) => {
  carryOut(data).catch((error: unknown) => {
    // of a lost device every command fails: the page is told of the loss itself
    if (!isLost) tell({ kind: 'failed', doing: doing[data.kind], text: (error as Error).message });
    if (data.kind === 'open') tell({ kind: 'activity', activity: 'ended', isTraining: false });
  });
});

async function carryOut(command: Command): Promise<void> {
  if (command.kind === 'open') return open(command);
  if (!session || isLost) return;
  switch (command.kind) {
    case 'new run':
      return session.newRun(command.choice);
    case 'start':
      return session.train(command);
    case 'pause':
      return session.pause();
    case 'save':
      return session.save();
    case 'restore':
      return session.restore();
    case 'download':
      return session.download();
    case 'load':
      return session.load(command.files);
    case 'generate':
      return session.generate(command.request);
    case 'stop':
      return session.stop();
    case 'measure':
      return session.measure();
  }
}

/** Backend, text and a first model, that all the page's buttons have something to act on. */
async function open({ backend: wanted, choice, seed, heldOutWindows }: OpenCommand): Promise<void> {
  const [backend, corpus] = await Promise.all([chooseBackend(wanted), readCorpus()]);
  watchDevice(backend, (text) => {
    isLost = true;
    tell({ kind: 'lost', text });
    tell({ kind: 'activity', activity: 'ended', isTraining: false });
  });
  tell({ kind: 'backend', backend });
  session = new Session({ corpus, seed, heldOutWindows, tell });
  await session.newRun(firstRun(backend, choice));
  tell({ kind: 'saved', note: await checkpointNote() });
}

/** On a slow backend the smallest model, whose steps are quick on anything. */
function firstRun({ name, isSoftware }: BackendReport, choice: Partial<RunChoice>): RunChoice {
  const preset = choice.preset ?? (name === 'cpu' || isSoftware ? 'tiny' : 'small');
  const { batch, sequence, totalSteps } = presets[preset].training;
  return { preset, batch, sequence, totalSteps, ...choice };
}

async function readCorpus(): Promise<Corpus> {
  tell({ kind: 'progress', text: 'Reading the text', done: 0, total: 0 });
  const response = await fetch('/texts.json');
  if (!response.ok) throw new Error(`the text could not be read: ${response.status} ${response.statusText}`);
  return makeCorpus((await response.json()) as string[]);
}

function tell(report: Report): void {
  const transfer = report.kind === 'checkpoint' ? [...report.files.values()].map(({ buffer }) => buffer) : [];
  self.postMessage(report, { transfer });
}
