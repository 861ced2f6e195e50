/** Peers that run in a process of their own: asked by a shape as JSON, they print their figures as JSON. */
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { TrainingSettings } from '../../demo/shared/trainer.js';
import type { DeepseekConfig } from '../../src/models.js';
import type { Figure } from './figure.js';
import type { AttentionShape, DecodeShape } from './shapes.js';

export type KernelName = 'forward' | 'forward+backward' | 'decode' | 'decode, packed cache' | 'training step';

/** What a peer takes for one of our lines, or why it has no figure. */
export type PeerResult = { peer: string } & ((Figure & PeakMemory) | { skipped: string });

export interface PeakMemory {
  /** what the device or the system has given to the process */
  peakBytes?: number;
  /** what tensors took of that, where it is known */
  tensorBytes?: number;
}

export interface PeerAnswer {
  /** of the peer and what it runs on, by name */
  versions: Record<string, string>;
  results: Partial<Record<KernelName, PeerResult[]>>;
}

export type PeerRequest = { isSoftware: boolean } & (
  | ({ op: 'attention' } & AttentionShape)
  | ({ op: 'decode' } & DecodeShape)
  | { op: 'training'; config: DeepseekConfig; settings: TrainingSettings }
);

/** What a peer is asked for. */
const asked: Record<PeerRequest['op'], KernelName[]> = {
  attention: ['forward', 'forward+backward'],
  decode: ['decode'],
  training: ['training step'],
};

const run = promisify(execFile);
const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const timeoutMs = 300_000;
const stopping = new AbortController();

/** Ends the program that is being asked, and this process, on Ctrl+C or when it is told to end. */
export function stopOnSignals(): void {
  for (const [signal, number] of [
    ['SIGINT', 2],
    ['SIGTERM', 15],
  ] as const) {
    process.once(signal, () => {
      stopping.abort();
      process.exit(128 + number);
    });
  }
}

export class PeerProgram {
  readonly versions: Record<string, string> = {};
  private absence: string | undefined;

  constructor(
    readonly name: string,
    private readonly command: string,
    private readonly args: string[],
    private readonly environment?: NodeJS.ProcessEnv,
  ) {}

  /** Never throws: a peer that fails is skipped, with its reason, and one that is absent is not asked again. */
  async ask(request: PeerRequest): Promise<PeerAnswer['results']> {
    const skip = (skipped: string): PeerAnswer['results'] => {
      const results = [{ peer: this.name, skipped }];
      return Object.fromEntries(asked[request.op].map((kernel) => [kernel, results]));
    };
    if (this.absence !== undefined) return skip(this.absence);
    try {
      const args = [...this.args, JSON.stringify(request)];
      const { stdout } = await run(this.command, args, {
        timeout: timeoutMs,
        maxBuffer: 2 ** 26,
        signal: stopping.signal,
        env: this.environment,
      });
      const answer = parseAnswer(stdout);
      if ('absent' in answer) return skip((this.absence = answer.absent));
      Object.assign(this.versions, answer.versions);
      return answer.results;
    } catch (error) {
      const { code, signal, stderr } = error as { code?: unknown; signal?: string; stderr?: string };
      if (code === 'ENOENT') return skip((this.absence = `there is no ${this.command}`));
      return skip(
        errorLine(stderr ?? '') || `ended by ${signal ?? `code ${String(code)}`} without an answer`,
      );
    }
  }
}

/** One after another, each in the same minute as ours; gives their results for a line. */
export async function askAll(
  programs: PeerProgram[],
  request: PeerRequest,
): Promise<(kernel: KernelName) => PeerResult[]> {
  const answers: PeerAnswer['results'][] = [];
  for (const program of programs) answers.push(await program.ask(request));
  return (kernel) => answers.flatMap((results) => results[kernel] ?? []);
}

/** PyTorch, where the machine's python3 has it with CUDA. */
export function torchProgram(): PeerProgram {
  return new PeerProgram('torch', 'python3', [script('torch_peers.py')]);
}

/** ONNX Runtime, where it is installed: a crash of its native code ends its own process only. */
export function onnxProgram(): PeerProgram {
  return new PeerProgram('onnx', process.execPath, [...process.execArgv, script('onnxPeer.ts')]);
}

/** The last line that a peer has printed; libraries may have printed before it. */
export function parseAnswer(stdout: string): PeerAnswer | { absent: string } {
  const line = lastLine(stdout);
  let answer: unknown;
  try {
    answer = JSON.parse(line);
  } catch {
    throw new Error(`expected JSON in the last line, got ${JSON.stringify(line)}`);
  }
  if (isRecord(answer) && typeof answer.absent === 'string') return { absent: answer.absent };
  if (isRecord(answer) && isRecord(answer.versions) && isRecord(answer.results)) {
    const results = Object.values(answer.results);
    if (results.every((list) => Array.isArray(list) && list.every(isResult)))
      return answer as unknown as PeerAnswer;
  }
  throw new Error(`expected {absent} or {versions, results}, got ${line}`);
}

function isResult(value: unknown): boolean {
  if (!isRecord(value) || typeof value.peer !== 'string') return false;
  const { skipped, wallMs, spreadMs, gpuMs, isSlow } = value;
  if (typeof skipped === 'string') return true;
  const isNumber = (x: unknown): boolean => typeof x === 'number' && x > 0;
  return (
    isNumber(wallMs) &&
    Array.isArray(spreadMs) &&
    spreadMs.length === 2 &&
    spreadMs.every(isNumber) &&
    (gpuMs === undefined || isNumber(gpuMs)) &&
    typeof isSlow === 'boolean'
  );
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What went wrong, by the last line that names an error; Python ends with it, Node does not. */
function errorLine(stderr: string): string {
  return stderr.match(/^\w*(Error|Exception)\b.*/gm)?.at(-1) ?? lastLine(stderr);
}

function lastLine(text: string): string {
  return text.trimEnd().split('\n').at(-1) ?? '';
}
