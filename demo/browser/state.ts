/** All that the page knows, kept up to date from the worker's reports. */
import type { GenerateReport } from '../../src/models.js';
import type { HeldOutScore, StepReport } from '../shared/trainer.js';
import type {
  Activity,
  BackendReport,
  Command,
  Measurement,
  MemoryUse,
  Report,
  RunReport,
  SavedNote,
} from './messages.js';

/**
 * Also to be read from outside as `window.tfjsMlaDemo`, in the browser's console and by test/demo.test.ts.
 * Write nothing into it.
 */
export interface DemoState {
  /** Absent until one is chosen. */
  backend?: BackendReport;
  activity: Activity;
  /** True also while training waits for another activity to end. */
  isTraining: boolean;
  run?: RunReport;
  /** Natural logarithm, one per step. */
  losses: number[];
  heldOut: HeldOutScore[];
  lastStep?: StepReport;
  memory?: MemoryUse;
  /** What is saved in this browser. */
  saved?: SavedNote;
  /** The last generation's text and figures. */
  generation?: { text: string; report: GenerateReport };
  measurement?: Measurement;
  /** Everything that went wrong, in words. */
  problems: string[];
}

/** A part of the page. */
export interface Panel {
  /** After every report; the state has it already. */
  show(report: Report, state: DemoState): void;
}

export type Send = (command: Command, transfer?: Transferable[]) => void;

export function createState(): DemoState {
  return { activity: 'starting', isTraining: false, losses: [], heldOut: [], problems: [] };
}

/** Puts a report into the state. */
export function take(report: Report, state: DemoState): void {
  switch (report.kind) {
    case 'backend':
      state.backend = report.backend;
      break;
    case 'activity':
      // what was under way when it ended may still tell of itself
      if (state.activity === 'ended') break;
      Object.assign(state, { activity: report.activity, isTraining: report.isTraining });
      break;
    case 'run':
      Object.assign(state, { run: report.run, losses: report.run.losses, heldOut: report.run.heldOut });
      state.lastStep = undefined;
      break;
    case 'step':
      state.losses.push(report.report.loss);
      Object.assign(state, { lastStep: report.report, memory: report.memory });
      break;
    case 'held out':
      state.heldOut.push(report.score);
      break;
    case 'saved':
      state.saved = report.note;
      break;
    case 'piece':
      state.generation = { text: (state.generation?.text ?? '') + report.text, report: report.report };
      break;
    case 'generated':
      if (state.generation && report.report) state.generation.report = report.report;
      break;
    case 'measured':
      state.measurement = report.measurement;
      break;
    case 'failed':
      state.problems.push(`${report.doing} failed: ${report.text}`);
      break;
    case 'lost':
      state.problems.push(`The GPU device was lost: ${report.text}`);
      break;
  }
}

/** Nothing is being computed, and nothing waits to be. */
export function isIdle({ activity, isTraining }: DemoState): boolean {
  return activity === 'idle' && !isTraining;
}
