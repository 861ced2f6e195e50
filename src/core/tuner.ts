/**
 * What was found out about the candidates of a kernel: which one is the fastest, per device and bucket of problems
 * (bucket.ts). It knows no GPU; planners ask it, and what times candidates tells it.
 */
import { fail } from './errors.js';
import { kernelNames } from './names.js';
import type { KernelName } from './names.js';
import type { PassedOver } from './register.js';

/** The question: a kernel on a device, both as texts, for a bucket of problems. */
export interface Subject {
  device: string;
  kernel: KernelName;
  bucket: string;
}

/** The answer: milliseconds a call of each candidate that was timed, and the one to take. */
export interface Finding {
  winner: string;
  times: Record<string, number>;
}

type Entry = Subject & Finding;

/** Where findings outlive the process. What either function throws is told once, as a warning. */
export interface TuningStorage {
  read(): string | null | undefined;
  write(text: string): void;
}

const format = 'tfjs-mla tuning';
/** To be raised when a candidate's name comes to mean something else. */
const version = 2;
/** The oldest are dropped: some 300 KB as text. */
const mostEntries = 512;
/** A candidate must be this much faster than the cost model's choice: less is noise. */
const worthwhile = 0.97;

let storage: TuningStorage | undefined;
/** Undefined until something is asked for: no call reads a file before. */
let entries: Map<string, Entry> | undefined;
let trial: { key: string; candidate: string } | undefined;
let hasWarned = false;
let revision = 0;

/** A number that changes whenever an answer may: what was planned with another one is out of date. */
export function tuningRevision(): number {
  return revision;
}

function keyOf({ device, kernel, bucket }: Subject): string {
  return `${device}\n${kernel}\n${bucket}`;
}

/** Keeps findings in this storage from now on, or in memory alone. What is known by now is forgotten. */
export function keepTuningIn(next: TuningStorage | undefined): void {
  storage = next;
  entries = undefined;
  revision++;
  hasWarned = false;
}

/** What was found out, if anything was. */
export function findingOf(subject: Subject): Finding | undefined {
  const key = keyOf(subject);
  return trial?.key === key ? { winner: trial.candidate, times: {} } : known().get(key);
}

/** The candidate to take, if the planner still has it. */
export function winnerOf(subject: Subject): string | undefined {
  return findingOf(subject)?.winner;
}

/** Runs `use`, which must not be asynchronous, as if `candidate` had won. */
export function asWinner<T>(subject: Subject, candidate: string, use: () => T): T {
  const outer = trial;
  trial = { key: keyOf(subject), candidate };
  revision++;
  try {
    return use();
  } finally {
    trial = outer;
    revision++;
  }
}

/** The fastest, or the candidate that runs untuned, `usual`, where none is faster by more than noise. */
export function findingFrom(times: Record<string, number>, usual: string): Finding | undefined {
  const [fastest] = Object.entries(times).sort(([, a], [, b]) => a - b);
  if (!fastest) return undefined;
  const [name, ms] = fastest;
  const rounded = Object.entries(times).map(([candidate, each]) => [candidate, Number(each.toPrecision(4))]);
  return {
    winner: times[usual] * worthwhile <= ms ? usual : name,
    times: Object.fromEntries(rounded) as Record<string, number>,
  };
}

/** Never throws: what cannot be stored is remembered until the process ends. */
export function remember({ device, kernel, bucket }: Subject, { winner, times }: Finding): void {
  put([{ device, kernel, bucket, winner, times }]);
  save();
}

/** What explain() says of the candidates that lost by their times. */
export function withTimes(passedOver: PassedOver[], chosen: string, finding?: Finding): PassedOver[] {
  const best = finding?.times[chosen];
  if (finding?.winner !== chosen || best === undefined) return passedOver;
  return passedOver.map(({ candidate, reason }) => {
    const ms = finding.times[candidate];
    if (ms === undefined) return { candidate, reason };
    return { candidate, reason: `tuned: ${msText(ms)}, the winner ${msText(best)}` };
  });
}

function msText(ms: number): string {
  return `${Number(ms.toPrecision(3))} ms`;
}

/** All findings as JSON, for importTuning() on a device of the same kind. */
export function exportTuning(): string {
  return JSON.stringify({ format, version, findings: [...known().values()] });
}

/**
 * Adds findings that exportTuning() returned; they take the place of those for the same device, kernel and bucket.
 *
 * Throws, and adds nothing, if `json` is no such text or comes from a version with another format.
 */
export function importTuning(json: string): void {
  put(parse(json));
  save();
}

/** Forgets all findings, the stored ones too. */
export function clearTuning(): void {
  entries = new Map();
  revision++;
  guarded(() => storage?.write(exportTuning()));
}

function known(): Map<string, Entry> {
  if (!entries) {
    entries = new Map();
    guarded(() => put(stored()));
  }
  return entries;
}

function stored(): Entry[] {
  const text = storage?.read();
  return text ? parse(text) : [];
}

function put(added: Entry[]): void {
  revision++;
  const all = known();
  for (const entry of added) {
    all.delete(keyOf(entry)); // the newest goes last
    all.set(keyOf(entry), entry);
  }
  for (const key of all.keys()) {
    if (all.size <= mostEntries) break;
    all.delete(key);
  }
}

function save(): void {
  if (!storage) return;
  // another page or process may have stored something since
  guarded(() => {
    const ours = [...known().values()];
    put(stored());
    put(ours);
  });
  guarded(() => storage?.write(exportTuning()));
}

/** Storage may be full, forbidden, or hold something else: no call of the user's is to fail for that. */
function guarded(use: () => void): void {
  try {
    use();
  } catch (error) {
    if (!hasWarned) console.warn(`tfjs-mla: stored tuning is not used: ${(error as Error).message}`);
    hasWarned = true;
  }
}

function parse(json: string): Entry[] {
  const fn = 'importTuning';
  let content: unknown;
  try {
    content = JSON.parse(json);
  } catch {
    fail(fn, `json must be what exportTuning() returned, got ${excerpt(json)}`);
  }
  const { format: name, version: number, findings } = (content ?? {}) as Record<string, unknown>;
  if (name !== format || !Array.isArray(findings)) {
    fail(fn, `json must be what exportTuning() returned, got ${excerpt(json)}`);
  }
  if (number !== version) {
    fail(
      fn,
      `required: format version ${version}, got ${String(number)}: another version of tfjs-mla wrote it`,
    );
  }
  return findings.map((finding: unknown, index) => {
    if (isEntry(finding)) {
      const { device, kernel, bucket, winner, times } = finding;
      return { device, kernel, bucket, winner, times };
    }
    const expected = '{ device, kernel, bucket, winner, times: { candidate: ms } } with a time of the winner';
    fail(fn, `findings[${index}] must be ${expected}, got ${excerpt(JSON.stringify(finding))}`);
  });
}

function isEntry(value: unknown): value is Entry {
  const { device, kernel, bucket, winner, times } = (value ?? {}) as Record<string, unknown>;
  if (![device, bucket, winner].every((text) => typeof text === 'string')) return false;
  if (!kernelNames.includes(kernel as KernelName) || typeof times !== 'object' || times === null)
    return false;
  const isTime = (ms: unknown): boolean => typeof ms === 'number' && ms >= 0 && Number.isFinite(ms);
  return Object.hasOwn(times, winner as string) && Object.values(times).every(isTime);
}

function excerpt(text: unknown): string {
  const all = String(text);
  return all.length > 60 ? `${all.slice(0, 60)}…` : all;
}
