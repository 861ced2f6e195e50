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
export function withRatios(line: Line): object {
  const peers = line.peers.map((peer) =>
    'skipped' in peer ? peer : { ...peer, ratio: ratioOf(peer, line.ours) },
  );
  return { ...line, peers };
}

/** The same of a training step: how many times as many tokens a second. */
export function withRatio(line: TrainingLine): TrainingLine & { ratio?: number } {
  const { ours, composed } = line;
  if ('skipped' in ours || 'skipped' in composed) return line;
  return { ...line, ratio: ours.tokensPerSecond / composed.tokensPerSecond };
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

/** Tokens a second and GPU memory of the whole training step. */
export function trainingTable(lines: TrainingLine[]): string {
  const headings = ['training step', 'lane', 'tokens/s', 'GPU MB', 'tfjs composed', 'GPU MB', 'ratio'];
  const rows = lines.map(withRatio).map(({ name, lane, ours, composed, ratio }) => {
    const steps = [ours, composed].map((step) =>
      'skipped' in step
        ? [step.skipped, '']
        : [
            `${digits(step.tokensPerSecond)}${step.isSlow ? slowMark : ''}`,
            step.gpuBytes ? (step.gpuBytes / 1e6).toFixed(0) : '',
          ],
    );
    return [name, lane, ...steps.flat(), ratio === undefined ? '' : `${digits(ratio)}x`];
  });
  return markdownTable(headings, rows);
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
function skippedNotes(lines: Line[]): string[] {
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
function shownPeers(lines: Line[]): string[] {
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
