import type { CallFigure } from './calls.js';
import type { Figure } from './figure.js';
import type { KernelName, PeerResult } from './peers.js';
import type { TrainingLine } from './training.js';

/** One kernel on one shape, ours and its peers. */
export interface Line {
  kernel: KernelName;
  shape: string;
  /** what ran, by explain() */
  lane: string;
  ours: Figure;
  /** useful operations and bytes: the causal half, every tensor once */
  flop: number;
  bytes: number;
  peers: PeerResult[];
}

type PeerLine = Pick<Line, 'kernel' | 'shape' | 'peers'>;

/** How many times as long a peer takes. */
export interface Ratio {
  wall: number;
  gpu?: number;
}

export function ratioOf(peer: Figure, ours: Figure): Ratio {
  return {
    wall: peer.wallMs / ours.wallMs,
    gpu: peer.gpuMs && ours.gpuMs ? peer.gpuMs / ours.gpuMs : undefined,
  };
}

/** For machines: the line, and with each peer's figure its ratio. */
export function withRatios(line: Line | TrainingLine): object {
  const { ours } = line;
  const peers = line.peers.map((peer) =>
    'skipped' in peer || 'skipped' in ours ? peer : { ...peer, ratio: ratioOf(peer, ours) },
  );
  return { ...line, peers };
}

/** Milliseconds a call in a stream, those of GPU time in brackets; ratios likewise, peer to ours. */
export function kernelTable(lines: Line[]): string {
  const peers = shownPeers(lines);
  const headings = ['kernel', 'shape', 'lane', 'ms (GPU)', 'spread', 'TFLOP/s', 'GB/s'];
  const rows = lines.map(({ kernel, shape, lane, ours, flop, bytes, peers: results }) => {
    const ms = ours.gpuMs || ours.wallMs;
    return [
      kernel,
      shape,
      lane,
      figureText(ours),
      ours.spreadMs.map(digits).join('-'),
      digits(flop / ms / 1e9),
      digits(bytes / ms / 1e6),
      ...peers.flatMap((name) => peerCells(results, name, ours)),
    ];
  });
  const table = markdownTable([...headings, ...peers.flatMap((name) => [name, 'ratio'])], rows);
  return [table, ...skippedNotes(lines)].join('\n');
}

/** Tokens a second and peak memory of the whole training step; ratios ours to theirs. */
export function trainingTable(lines: TrainingLine[]): string {
  const peers = shownPeers(lines);
  const ofPeers = peers.flatMap((name) => [name, 'MB', 'ratio']);
  const rows = lines.map(({ name, lane, tokens, ours, peers: results }) => [
    name,
    lane,
    ...stepCells(ours, tokens),
    ...peers.flatMap((peer) => peerStepCells(results, peer, ours, tokens)),
  ]);
  const table = markdownTable(['training step', 'lane', 'tokens/s', 'MB', ...ofPeers], rows);
  const notes = lines.map(({ name, ours, peers: results }): PeerLine => {
    return { kernel: 'training step', shape: name, peers: [ours, ...results] };
  });
  return [table, ...skippedNotes(notes)].join('\n');
}

/** Tokens a second and megabytes, those of tensors in brackets. */
function stepCells(step: PeerResult | undefined, tokens: number): [string, string] {
  if (!step || 'skipped' in step) return ['', ''];
  const { wallMs, peakBytes, tensorBytes, isSlow } = step;
  const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(0);
  const ofTensors = tensorBytes === undefined ? '' : ` (${megabytes(tensorBytes)})`;
  return [
    `${digits((1000 * tokens) / wallMs)}${isSlow ? slowMark : ''}`,
    peakBytes === undefined ? '' : `${megabytes(peakBytes)}${ofTensors}`,
  ];
}

function peerStepCells(results: PeerResult[], name: string, ours: PeerResult, tokens: number): string[] {
  const result = results.find(({ peer }) => peer === name);
  const cells = stepCells(result, tokens);
  if (!result || 'skipped' in result || 'skipped' in ours) return [...cells, ''];
  return [...cells, `${digits(ratioOf(result, ours).wall)}x`];
}

/** Calls of a few numbers, and how many times as long as the first of them they take. */
export function callTable(figures: CallFigure[]): string {
  const rows = figures.map(({ name, inputs, outputs, us }) => [
    name,
    `${inputs}, ${outputs}`,
    digits(us),
    `${digits(us / figures[0].us)}x`,
  ]);
  return markdownTable(['call', 'inputs, outputs', 'us', `of ${figures[0].name}`], rows);
}

const slowMark = ' slow clock';

function figureText({ wallMs, gpuMs, isSlow }: Figure): string {
  return `${digits(wallMs)}${inBrackets(gpuMs)}${isSlow ? slowMark : ''}`;
}

function peerCells(results: PeerResult[], name: string, ours: Figure): [string, string] {
  const result = results.find(({ peer }) => peer === name);
  if (!result || 'skipped' in result) return ['', ''];
  const { wall, gpu } = ratioOf(result, ours);
  return [figureText(result), `${digits(wall)}x${inBrackets(gpu, 'x')}`];
}

function inBrackets(value: number | undefined, unit = ''): string {
  return value === undefined ? '' : ` (${digits(value)}${unit})`;
}

/** Who was left out, where and why: one line a peer and reason. */
function skippedNotes(lines: PeerLine[]): string[] {
  const places = new Map<string, string[]>();
  for (const { kernel, shape, peers } of lines) {
    for (const result of peers) {
      if (!('skipped' in result)) continue;
      const note = `${result.peer}: ${result.skipped}`;
      places.set(note, [...(places.get(note) ?? []), `${kernel} ${shape}`]);
    }
  }
  const whereText = (where: string[]): string =>
    where.length === lines.length ? 'everywhere' : where.join(', ');
  const notes = [...places].map(([note, where]) => `- skipped ${note} (${whereText(where)})`);
  return notes.length > 0 ? ['', ...notes] : [];
}

/** Those with a figure anywhere, in order of appearance. */
function shownPeers(lines: { peers: PeerResult[] }[]): string[] {
  const results = lines.flatMap(({ peers }) => peers).filter((result) => !('skipped' in result));
  return [...new Set(results.map(({ peer }) => peer))];
}

function markdownTable(headings: string[], rows: string[][]): string {
  const all = [headings, ...rows];
  const widths = headings.map((_, column) => Math.max(...all.map((row) => row[column].length)));
  const format = (row: string[]): string =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`;
  const rule = `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`;
  return [format(headings), rule, ...rows.map(format)].join('\n');
}

function digits(value: number): string {
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(3);
}
