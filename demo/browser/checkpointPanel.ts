/** Save and restore in the browser, download and load as files. */
import { button, input, setText } from './elements.js';
import { bytesText, countText } from './formats.js';
import type { CheckpointMap } from './messages.js';
import { isIdle } from './state.js';
import type { DemoState, Panel, Send } from './state.js';
import { readTar, writeTar } from './tar.js';

export function createCheckpointPanel(
  send: Send,
  state: DemoState,
  onProblem: (doing: string, error: unknown) => void,
): Panel {
  const files = input('files');
  button('save').addEventListener('click', () => send({ kind: 'save' }));
  button('restore').addEventListener('click', () => {
    if (mayForget(state)) send({ kind: 'restore' });
  });
  button('download').addEventListener('click', () => send({ kind: 'download' }));
  button('load').addEventListener('click', () => {
    if (mayForget(state)) files.click();
  });
  files.addEventListener('change', () => {
    readFiles([...(files.files ?? [])])
      .then((loaded) => loaded.size && send({ kind: 'load', files: loaded }))
      .catch((error: unknown) => onProblem('Loading the files', error))
      .finally(() => (files.value = '')); // the same file may be chosen again
  });
  return {
    show(report) {
      if (report.kind === 'checkpoint') offer(report.step, report.files);
      showButtons(state);
      if (report.kind === 'saved') showSaved(state);
    },
  };
}

function mayForget({ losses, saved }: DemoState): boolean {
  const isKept = losses.length === 0 || losses.length === saved?.step;
  return isKept || confirm(`Forget the ${losses.length} steps of this run? They are not saved.`);
}

/** One archive, or the files themselves. */
async function readFiles(files: readonly File[]): Promise<CheckpointMap> {
  const read = async (file: File): Promise<Uint8Array<ArrayBuffer>> =>
    new Uint8Array(await file.arrayBuffer());
  if (files.length === 1 && files[0].name.endsWith('.tar')) return readTar(await read(files[0]));
  return new Map(
    await Promise.all(
      files.map(async (file) => [file.name, await read(file)] as [string, Uint8Array<ArrayBuffer>]),
    ),
  );
}

/** The folder in the archive is named as a run's checkpoints in Node, where it can be resumed too. */
function offer(step: number, files: CheckpointMap): void {
  const folder = `step-${String(step).padStart(6, '0')}`;
  const entries = [...files].map(([name, content]) => [`${folder}/${name}`, content] as const);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(writeTar(new Map(entries), new Date()));
  link.download = `tfjs-mla-${folder}.tar`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function showSaved({ saved }: DemoState): void {
  if (!saved) {
    setText('saved', 'Nothing is saved in this browser yet.');
    return;
  }
  const time = new Date(saved.time).toLocaleString('en', { dateStyle: 'medium', timeStyle: 'short' });
  setText(
    'saved',
    `Saved in this browser: step ${countText(saved.step)}, ${bytesText(saved.bytes)}, ${time}.`,
  );
}

function showButtons(state: DemoState): void {
  const { activity, isTraining, saved } = state;
  const idle = isIdle(state);
  // saving may come between two steps
  const maySave = idle || (isTraining && activity === 'training');
  button('save').disabled = !maySave;
  button('download').disabled = !maySave;
  button('restore').disabled = !idle || !saved;
  button('load').disabled = !idle;
}
