/** What the page and its worker tell each other. The page draws, the worker computes. */
import type { Plan } from '../../src/index.js';
import type { GenerateReport } from '../../src/models.js';
import type { PresetName } from '../shared/presets.js';
import type { HeldOutScore, StepReport, TrainingSettings } from '../shared/trainer.js';

/** Best first. */
export const backendNames = ['webgpu', 'wasm', 'cpu'] as const;

export type BackendName = (typeof backendNames)[number];

export interface RunChoice {
  preset: PresetName;
  batch: number;
  sequence: number;
  totalSteps: number;
}

/** The files of a checkpoint, by name. */
export type CheckpointMap = Map<string, Uint8Array<ArrayBuffer>>;

export interface GenerationRequest {
  prompt: string;
  temperature: number;
  topK: number;
  maxNewTokens: number;
  seed: number;
}

export type Command =
  | { kind: 'open'; backend?: BackendName; choice: Partial<RunChoice>; seed: number; heldOutWindows: number }
  | { kind: 'new run'; choice: RunChoice }
  | { kind: 'start'; totalSteps: number; sampleEvery: number; samplePrompt: string }
  | { kind: 'pause' }
  | { kind: 'save' }
  | { kind: 'restore' }
  | { kind: 'download' }
  | { kind: 'load'; files: CheckpointMap }
  | { kind: 'generate'; request: GenerationRequest }
  | { kind: 'stop' }
  | { kind: 'measure' };

/** What computes, and why nothing better does. */
export interface BackendReport {
  name: BackendName;
  device: string;
  /** The GPU is emulated by the processor: slower than the wasm backend. */
  isSoftware: boolean;
  /** The device is one of ours, with all features and limits, and not tfjs's own. */
  isOwnDevice: boolean;
  /** Why each better backend is not used, in sentences; empty where this one was asked for. */
  passedOver: string[];
}

export interface SavedNote {
  step: number;
  /** Milliseconds since 1970. */
  time: number;
  bytes: number;
}

/** The run that the worker holds: told anew when there is another one. */
export interface RunReport {
  /** Absent if the model has none of their sizes. */
  preset?: PresetName;
  settings: TrainingSettings;
  parameterCount: number;
  losses: number[];
  heldOut: HeldOutScore[];
  /** Bits per byte that byte frequencies alone give. */
  unigramEntropy: number;
  /** How each of our kernels will run. */
  plans: Plan[];
}

export interface MemoryUse {
  tensors: number;
  tensorBytes: number;
  /** Absent without a GPU. */
  gpuBytes?: number;
}

export interface KernelCost {
  kernel: string;
  calls: number;
  /** 0 where the device has no clock. */
  timeMs: number;
}

/** Kernels, ours and tfjs's, that ran in one step of training and in the generation of two tokens. */
export interface Measurement {
  training: KernelCost[];
  generation: KernelCost[];
}

export type Activity =
  | 'starting'
  | 'compiling'
  | 'idle'
  | 'training'
  | 'sampling'
  | 'generating'
  | 'saving'
  | 'restoring'
  | 'measuring'
  /** Nothing more can be computed. */
  | 'ended';

export type Report =
  | { kind: 'backend'; backend: BackendReport }
  | { kind: 'activity'; activity: Activity; isTraining: boolean }
  | { kind: 'progress'; text: string; done: number; total: number }
  | { kind: 'run'; run: RunReport }
  | { kind: 'step'; report: StepReport; memory: MemoryUse }
  | { kind: 'held out'; score: HeldOutScore }
  | { kind: 'sample'; step: number; prompt: string; text: string }
  | { kind: 'saved'; note: SavedNote | undefined }
  | { kind: 'checkpoint'; step: number; files: CheckpointMap }
  | { kind: 'piece'; text: string; report: GenerateReport }
  | { kind: 'generated'; report: GenerateReport | undefined }
  | { kind: 'measured'; measurement: Measurement }
  | { kind: 'failed'; doing: string; text: string }
  | { kind: 'lost'; text: string };
