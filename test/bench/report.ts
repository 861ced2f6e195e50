import type { Measurement } from './measure.js';

/** One measured kernel on one shape. */
export interface Line extends Measurement {
  kernel: string;
  shape: string;
  /** useful operations and bytes: the causal half, every tensor once */
  flop: number;
  bytes: number;
  peer: string;
  peerMs?: number;
}

const headings = [
  'kernel',
  'shape',
  'ms',
  'spread',
  'GPU ms',
  'TFLOP/s',
  'GB/s',
  'peer',
  'peer ms',
  'peer / ours',
];

/** The lines as an aligned markdown table. */
export function table(lines: Line[]): string {
  const rows = [headings, ...lines.map(cells)];
  const widths = headings.map((_, column) => Math.max(...rows.map((row) => row[column].length)));
  const format = (row: string[]): string =>
    `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`;
  const rule = `|${widths.map((width) => '-'.repeat(width + 2)).join('|')}|`;
  return [format(rows[0]), rule, ...rows.slice(1).map(format)].join('\n');
}

function cells({ kernel, shape, wallMs, spreadMs, gpuMs, flop, bytes, peer, peerMs }: Line): string[] {
  const ms = gpuMs && gpuMs > 0 ? gpuMs : wallMs;
  return [
    kernel,
    shape,
    digits(wallMs),
    `${digits(spreadMs[0])}-${digits(spreadMs[1])}`,
    gpuMs === undefined ? '' : digits(gpuMs),
    digits(flop / ms / 1e9),
    digits(bytes / ms / 1e6),
    peerMs === undefined ? '' : peer,
    peerMs === undefined ? '' : digits(peerMs),
    peerMs === undefined ? '' : `${digits(peerMs / wallMs)}x`,
  ];
}

function digits(value: number): string {
  return value >= 1000 ? value.toFixed(0) : value.toPrecision(3);
}
